// Panel 4: a weight group beside its codes, rounded anew as the sliders say.

import { byId, notice, number, percent } from "./draw.js";
import { get, latest } from "./net.js";
import { drawGroup } from "./weights.js";

const DEQUANTIZED = "These are not the 16-bit weights but what the checkpoint's codes stand for. ";
const slider = id => byId(id);
let scene,
  sizes = [],
  exponents = null,
  where = null;

export function startGroup(given) {
  scene = given;
  for (const id of ["bits", "size", "clip", "a", "b", "row", "at"])
    slider(id).addEventListener("input", event => changed(event.target.id));
  byId("as-plain").addEventListener("click", () => preset(0, 0));
  byId("as-chosen").addEventListener("click", () => preset(...(exponents ?? [0, 0])));
  byId("sliders").addEventListener("submit", event => event.preventDefault());
}

// Another layer: its own exponents, the checkpoint's scheme, the group with the largest channel.
export async function showGroup(chosen, found, salience) {
  const input = found.inputs.find(each => each.readers.some(r => r.name === chosen.layer));
  const shape = input.readers.find(r => r.name === chosen.layer);
  where = { block: chosen.block, layer: chosen.layer, out: shape.out, in: shape.in };
  sizes = [16, 32, 64, 128, 256].filter(size => shape.in % size === 0);
  const none = sizes.length
    ? ""
    : `The ${shape.in} inputs of this layer cannot be cut into groups.`;
  byId("group-body").classList.toggle("absent", Boolean(none));
  if (none) return notice("group", none);
  exponents = input.exponents ?? null;
  slider("bits").value = scene.bits;
  slider("size").max = sizes.length - 1;
  slider("size").value = Math.max(
    0,
    sizes.includes(scene.group_size) ? sizes.indexOf(scene.group_size) : sizes.length - 1,
  );
  slider("clip").value = 1;
  for (const id of ["a", "b", "as-chosen"]) byId(id).disabled = Boolean(salience.why);
  byId("as-chosen").disabled ||= !exponents;
  [slider("a").value, slider("b").value] = exponents ?? [0, 0];
  slider("row").max = shape.out - 1;
  slider("row").value = 0;
  slider("at").max = shape.in / size() - 1;
  slider("at").value = salience.top ? Math.floor(salience.top[0].channel / size()) : 0;
  await update();
}

const size = () => sizes[Number(slider("size").value)];

function preset(a, b) {
  [slider("a").value, slider("b").value, slider("clip").value] = [a, b, 1];
  update();
}

let lastSize = 0;
function changed(id) {
  if (id === "size") {
    // stay at the same channels
    const first = Number(slider("at").value) * lastSize;
    slider("at").max = where.in / size() - 1;
    slider("at").value = Math.floor(first / size());
  }
  update();
}

function speak() {
  lastSize = size();
  const said = {
    "bits-said": `${slider("bits").value}: ${2 ** slider("bits").value} marks`,
    "size-said": String(size()),
    "clip-said": percent(Number(slider("clip").value)),
    "a-said": number(Number(slider("a").value)),
    "b-said": number(Number(slider("b").value)),
    "row-said": `${slider("row").value} of ${where.out}`,
    "at-said": `${slider("at").value} of ${where.in / size()}`,
  };
  for (const [id, words] of Object.entries(said)) {
    byId(id).textContent = words;
    slider(id.replace("-said", "")).setAttribute("aria-valuetext", words);
  }
}

let begun = 0;
const update = () => {
  speak();
  begun ||= performance.now();
  return fetchGroup();
};

const fetchGroup = latest(async () => {
  const started = begun;
  begun = 0;
  const query = new URLSearchParams({
    block: where.block,
    layer: where.layer,
    row: slider("row").value,
    group: slider("at").value,
    bits: slider("bits").value,
    group_size: size(),
    clip: slider("clip").value,
    a: slider("a").value,
    b: slider("b").value,
  });
  try {
    const found = await get(`/explorer/api/group?${query}`);
    byId("weight-key").textContent = scene.no_source ? "weight" : "16-bit weight";
    notice("group", (scene.no_source ? DEQUANTIZED : "") + found.why);
    drawGroup(found, scene.scheme);
    const took = performance.now() - (started || performance.now());
    byId("group-time").textContent = `Recomputed in ${Math.round(took)} ms.`;
    byId("group-time").dataset.ms = took;
  } catch (error) {
    notice("group", error.message);
  }
});
