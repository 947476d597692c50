// Panel 3: output error over the exponents of the scale.

import { axes, byId, linear, niceTicks, number, path, percent, svg } from "./draw.js";
import { drawPanel, drawTable, level } from "./panel.js";

export function drawCurve(data) {
  if (!drawPanel("curve", data, figure)) return;
  const { activations, line } = data;
  byId("curve-key").textContent =
    data.b === null ? "for b = 0" : `for b = ${number(data.b)}, the chosen one`;
  const rows = activations.map(p => [
    number(p.a),
    percent(p.error),
    percent(line.find(l => l.a === p.a)?.error),
  ]);
  drawTable(
    "curve-table",
    "Output error over the exponent",
    [["a"], [`b = ${number(data.b ?? 0)}`, true], ["b = 1 − a", true]],
    rows,
  );
}

function figure(data) {
  const { chosen, plain } = data;
  const fixed = chosen && chosen.a === 0 && chosen.b === 0;
  const note = [
    chosen && !fixed
      ? `Chosen: a = ${number(chosen.a)}, b = ${number(chosen.b)}, with ${percent(chosen.error)} ` +
        `of the output in error instead of ${percent(plain)}.`
      : "",
    fixed
      ? `No scale was chosen here: both exponents are 0, ${percent(plain)} of the output in error.`
      : "",
    data.absorber
      ? `The scale is divided out of ${data.absorber}, which provably changes nothing.`
      : data.refusal
        ? `No module can absorb the scale here: ${data.refusal}.`
        : "",
    data.tied ? "Heads that share keys and values share their scales." : "",
    "The search used the whole calibration set and then chose finer grids; " +
      `this curve uses ${data.tokens} tokens and plain grids, at ${data.scheme}.`,
  ]
    .filter(Boolean)
    .join(" ");
  return {
    note,
    label: "Output error over the exponent a; the table below has the figures",
    marks: frame => marks(frame, data),
  };
}

function marks(frame, { chosen, plain, activations, line }) {
  const { root, box } = frame,
    errors = [...activations, ...line].map(p => p.error);
  // Far exponents may cost ten times as much: they leave the frame at the top.
  const least = Math.min(plain, ...errors, chosen?.error ?? plain),
    most = Math.min(Math.max(...errors), 3 * Math.max(plain, least));
  const high = most * 1.05,
    y = linear(0, high, box.bottom, box.top),
    x = linear(-0.125, 1.125, box.left, box.right);
  axes(
    frame,
    y,
    niceTicks(0, high, 5),
    percent,
    x,
    [0, 0.25, 0.5, 0.75, 1],
    String,
    "exponent a of the activations",
  );
  const points = list => list.map(p => [x(p.a), Math.max(y(p.error), box.top - 8)]);
  root.append(
    ...level(frame, y(plain), `plain rounding ${percent(plain)}`, {
      x: x(0) + 12,
      y: y(plain) - 8,
    }),
    svg("path", { class: "line classic", d: path(points(line)) }),
    svg("path", { class: "line", d: path(points(activations)) }),
    svg("circle", { class: "ring", cx: x(0), cy: y(plain), r: 6 }),
  );
  if (chosen) {
    const right = chosen.a < 0.7;
    root.append(
      svg("circle", { class: "dot", cx: x(chosen.a), cy: y(chosen.error), r: 7 }),
      svg(
        "text",
        {
          class: "label",
          x: x(chosen.a) + (right ? 12 : -12),
          y: y(chosen.error) + 18,
          "text-anchor": right ? "start" : "end",
        },
        `chosen ${percent(chosen.error)}`,
      ),
    );
  }
}
