// Panel 4: a group of weights next to its codes, rounded with the settings of the sliders.

import { byId, notice, number, percent } from "./draw.js";
import { get, latest } from "./net.js";
import { drawGroup } from "./weights.js";

const DEQUANTIZED = "These are not the 16-bit weights but the dequantized codes of the checkpoint. ";
const slider = id => byId(id);
let overview,
  sizes = [],
  exponents = null,
  place = null;

export function startGroup(data) {
  overview = data;
  for (const id of ["bits", "size", "clip", "a", "b", "row", "at"])
    slider(id).addEventListener("input", event => changed(event.target.id));
  byId("as-plain").addEventListener("click", () => preset(0, 0));
  byId("as-chosen").addEventListener("click", () => preset(...(exponents ?? [0, 0])));
  byId("sliders").addEventListener("submit", event => event.preventDefault());
}

// Another layer: its own exponents, the checkpoint's scheme, the group with the largest channel.
export async function showGroup(chosen, data, salience) {
  const input = data.inputs.find(each => each.readers.some(r => r.name === chosen.layer));
  const shape = input.readers.find(r => r.name === chosen.layer);
  place = { block: chosen.block, layer: chosen.layer, out: shape.out, in: shape.in };
  sizes = [16, 32, 64, 128, 256].filter(size => shape.in % size === 0);
  const none = sizes.length
    ? ""
    : `The ${shape.in} inputs of this layer cannot be cut into groups.`;
  byId("group-body").classList.toggle("absent", Boolean(none));
  if (none) return notice("group", none);
  exponents = input.exponents ?? null;
  slider("bits").value = overview.bits;
  slider("size").max = sizes.length - 1;
  slider("size").value = Math.max(
    0,
    sizes.includes(overview.group_size) ? sizes.indexOf(overview.group_size) : sizes.length - 1,
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
    slider("at").max = place.in / size() - 1;
    slider("at").value = Math.floor(first / size());
  }
  update();
}

function showValues() {
  lastSize = size();
  const labels = {
    "bits-value": `${slider("bits").value}: ${2 ** slider("bits").value} marks`,
    "size-value": String(size()),
    "clip-value": percent(Number(slider("clip").value)),
    "a-value": number(Number(slider("a").value)),
    "b-value": number(Number(slider("b").value)),
    "row-value": `${slider("row").value} of ${place.out}`,
    "at-value": `${slider("at").value} of ${place.in / size()}`,
  };
  for (const [id, label] of Object.entries(labels)) {
    byId(id).textContent = label;
    slider(id.replace("-value", "")).setAttribute("aria-valuetext", label);
  }
}

let requested = 0; // when the sliders moved
const update = () => {
  showValues();
  requested ||= performance.now();
  return fetchGroup();
};

const fetchGroup = latest(async () => {
  const started = requested;
  requested = 0;
  const query = new URLSearchParams({
    block: place.block,
    layer: place.layer,
    row: slider("row").value,
    group: slider("at").value,
    bits: slider("bits").value,
    group_size: size(),
    clip: slider("clip").value,
    a: slider("a").value,
    b: slider("b").value,
  });
  try {
    const data = await get(`/explorer/api/group?${query}`);
    byId("weight-key").textContent = overview.no_source ? "weight" : "16-bit weight";
    notice("group", (overview.no_source ? DEQUANTIZED : "") + data.why);
    drawGroup(data, overview.scheme);
    const took = performance.now() - (started || performance.now());
    byId("group-time").textContent = `Recomputed in ${Math.round(took)} ms.`;
    byId("group-time").dataset.ms = took;
  } catch (error) {
    notice("group", error.message);
  }
});
