// The page: fetches the overview once; every panel follows the chosen layer.

import { byId, el, mebibytes, missing, number, percent } from "./draw.js";
import { get, latest } from "./net.js";
import { drawBlocks, markBlock } from "./blocks.js";
import { drawSalience } from "./salience.js";
import { drawCurve } from "./curve.js";
import { showGroup, startGroup } from "./group.js";
import { drawRunning } from "./running.js";
import { startChat } from "./chat.js";

const API = "/explorer/api";
const POLL = 400; // milliseconds, while the pass runs
let overview,
  chosen = { block: 0, layer: "" };

async function start() {
  overview = await get(`${API}/scene`);
  head();
  const named = overview.blocks.map((_, i) => String(i));
  byId("block").append(...named.map(name => el("option", { value: name }, name)));
  missing("blocks", overview.no_evidence);
  if (overview.evidence) drawBlocks(overview, choose);
  startGroup(overview);
  startChat(overview, running);
  byId("block").addEventListener("change", () => choose(Number(byId("block").value)));
  byId("layer").addEventListener("change", () => choose(chosen.block, byId("layer").value));
  const worst = overview.evidence?.worst[0];
  choose(worst ? overview.blocks.indexOf(worst.block) : 0, worst ? worst.layer : "");
  await running();
  await watch();
}

function head() {
  byId("title").textContent = overview.model;
  document.title = `${overview.model}: quantization at work`;
  const { plain, awq } = overview.heldout,
    tiles = [];
  tiles.push([
    "scheme",
    overview.scheme ?? "16 bits",
    overview.scheme ? `${number(overview.bits_per_weight, 4)} bits a weight` : "not quantized",
  ]);
  if (awq)
    tiles.push(
      ["KL to the 16-bit model", `${number(awq.kl)} nats`, `plain rounding: ${number(plain?.kl)}`],
      ["same most likely token", percent(awq.top1), `plain rounding: ${percent(plain?.top1)}`],
    );
  if (overview.bytes.after)
    tiles.push([
      "size on disk",
      mebibytes(overview.bytes.after),
      `before: ${mebibytes(overview.bytes.before)}`,
    ]);
  tiles.push([
    "16-bit model",
    overview.source ? "available" : "not available",
    overview.source ?? "see panels 2 to 4",
  ]);
  byId("tiles").replaceChildren(
    ...tiles.map(([name, figure, remark]) =>
      el(
        "div",
        { class: "tile" },
        el("dt", {}, name),
        el(
          "dd",
          {},
          el("span", { class: "figure" }, figure),
          el("span", { class: "remark" }, remark),
        ),
      ),
    ),
  );
}

// Wait for the pass; draw a panel when the pass has reached its block.
async function watch() {
  for (;;) {
    const progress = await get(`${API}/progress`);
    showProgress(progress);
    if (progress.state === "measuring") {
      if (waiting && progress.done > chosen.block) show();
      await new Promise(resolve => setTimeout(resolve, POLL));
    } else {
      if (waiting) show();
      if (progress.state === "ready") await running();
      return;
    }
  }
}

function showProgress({ state, done, total, words: label }) {
  const text = {
    none: "",
    waiting: "",
    measuring:
      "Measuring: a few calibration tokens run through the 16-bit model, " +
      `block ${done} of ${total || "?"}.`,
    ready: `Measured on ${label}, just now.`,
    failed: `Nothing could be measured. ${label}`,
  }[state];
  byId("progress").textContent = [text, overview.source_remark].filter(Boolean).join(" ");
}

function choose(block, layer = chosen.layer) {
  chosen = { block, layer };
  byId("block").value = String(block);
  markBlock(block);
  show();
}

let waiting = false; // for the pass to reach the chosen block
const show = latest(async () => {
  try {
    await panels();
  } catch (error) {
    byId("progress").textContent = error.message;
  }
});

async function panels() {
  const { block } = chosen;
  const data = await get(`${API}/block?block=${block}`);
  if (block !== chosen.block) return;
  waiting = Boolean(data.why) && !overview.no_source;
  fillLayers(data);
  const query = `block=${block}&layer=${encodeURIComponent(chosen.layer)}`;
  const [salience, curve] = await Promise.all([
    get(`${API}/salience?${query}`),
    get(`${API}/curve?${query}`),
  ]);
  if (block !== chosen.block) return;
  drawSalience(salience);
  drawCurve(curve);
  await showGroup(chosen, data, salience);
}

// The linears by the input that they share. A kind of layer has stars instead of numbers.
function fillLayers(data) {
  const names = data.inputs.flatMap(input => input.readers.map(r => r.name));
  const pattern = name => name.replace(/(^|\.)\d+(?=\.|$)/g, "$1*");
  const kind = chosen.layer;
  chosen.layer =
    names.find(n => n === kind) ?? names.find(n => pattern(n) === pattern(kind)) ?? names[0];
  byId("layer").replaceChildren(
    ...data.inputs.map((input, i) =>
      el(
        "optgroup",
        { label: `input ${i + 1}` },
        input.readers.map(r => el("option", { value: r.name }, r.name)),
      ),
    ),
  );
  byId("layer").value = chosen.layer;
  const input = data.inputs.find(each => each.readers.some(r => r.name === chosen.layer));
  const shape = input.readers.find(r => r.name === chosen.layer);
  const shared = input.readers.filter(r => r.name !== chosen.layer).map(r => r.name);
  byId("chosen").textContent =
    `${shape.in} inputs, ${shape.out} outputs` +
    (shared.length ? `; reads the same as ${shared.slice(0, 3).join(", ")}` : "") +
    ".";
}

async function running() {
  drawRunning(await get(`${API}/running`));
}

start().catch(error => {
  byId("progress").textContent = error.message;
});
