// Panel 5: memory by part, kernels, fusion.

import { byId, chart, el, mebibytes, number, svg } from "./draw.js";
import { drawTable } from "./panel.js";

export function drawRunning(data) {
  const { parts, total } = data;
  chart(
    byId("memory-chart"),
    `Memory by part, ${mebibytes(total)} in all; the list below has the figures`,
    frame => bar(frame, parts),
  );
  byId("memory-legend").replaceChildren(
    ...parts.map((part, i) =>
      el(
        "li",
        {},
        el("i", { class: `key part part${i}` }),
        `${part.name}: ${mebibytes(part.bytes)}`,
      ),
    ),
  );
  byId("memory-note").textContent =
    `${data.device}, activations in ${data.dtype}; ${data.runs_as}. ` +
    (data.kv_bytes_full
      ? `A token's keys and values take ${number(data.kv_bytes_a_token / 1024)} KiB; all ` +
        `${data.slots} slots of ${data.context} tokens would take ` +
        `${mebibytes(data.kv_bytes_full)}.`
      : "");
  drawTable(
    "kernels",
    "Kernels",
    [["kernel"], ["linears", true], ["why"]],
    data.kernels.map(k => [k.kernel, String(k.linears), k.why]),
  );
  drawTable(
    "fusion",
    "What was fused",
    [["what"], ["blocks", true], ["why not"]],
    data.fusion.map(f => [f.what, String(f.blocks), f.why || "proven, fused"]),
  );
}

function bar({ root, width, height }, parts) {
  const total = parts.reduce((sum, part) => sum + part.bytes, 0) || 1;
  let x = 0;
  parts.forEach((part, i) => {
    const wide = (part.bytes / total) * width;
    root.append(
      svg("rect", { class: `part${i}`, x, y: 0, width: Math.max(wide - 1.5, 0), height }),
    );
    x += wide;
  });
}
