// A group of weights next to the values of their codes: chart, errors, table.

import { axes, byId, linear, niceTicks, number, percent, svg } from "./draw.js";
import { drawFigure, drawTable } from "./panel.js";

const VARIANTS = [
  ["now", "with these sliders"],
  ["written", "as in the checkpoint"],
  ["plain", "plain rounding, these bits and groups"],
];
const MOST_MARKS = 4200; // of the ruler, that are distinguishable

// scheme: the name of the checkpoint's own; null without one
export function drawGroup(data, scheme) {
  const first = data.group * data.weights.length,
    last = first + data.weights.length - 1;
  byId("group-caption").textContent =
    `Row ${data.row}, channels ${first} to ${last} of ${data.layer}`;
  drawFigure("group", {
    note:
      `${data.scheme}: ${number(data.bits_per_weight, 4)} bits a weight with the rulers. ` +
      `Zero is at mark ${data.zero}, a step is ${number(data.step)}.`,
    label: "Weights and the values of their codes; the table below has the figures",
    marks: frame => marks(frame, data),
  });
  errors(data.errors, scheme);
  const { now, written } = data.values;
  drawTable(
    "group-table",
    "Weights and codes",
    [
      ["channel"],
      ["weight", true],
      ["code", true],
      ["value", true],
      ["scale", true],
      ["written code", true],
      ["value", true],
      ["mean |x|", true],
    ],
    data.weights.map((w, i) => [
      String(first + i),
      number(w, 4),
      String(data.codes[i]),
      number(now[i], 4),
      number(data.scale[i]),
      data.written_codes ? String(data.written_codes[i]) : "–",
      number(written?.[i], 4),
      number(data.mean_abs?.[i]),
    ]),
  );
}

function errors(data, scheme) {
  const rows = VARIANTS.map(([variant, about]) => {
    const e = data[variant],
      label = variant === "written" && scheme ? `${about} (${scheme})` : about;
    return e
      ? [label, percent(e.weight), percent(e.output), percent(e.layer)]
      : [label, "–", "–", "–"];
  });
  drawTable(
    "group-errors",
    "Errors",
    [
      ["error"],
      ["of the group's weights", true],
      ["of the group's output", true],
      ["of the layer's output", true],
    ],
    rows,
  );
}

function marks(frame, data) {
  const { root, box } = frame,
    { weights, scale, codes, mean_abs: mean } = data,
    count = weights.length;
  const now = data.values.now,
    most = 2 ** Number(data.scheme.match(/^w(\d+)/)[1]) - 1;
  const low = Math.min(...weights, ...now),
    high = Math.max(...weights, ...now),
    room = (high - low) * 0.06 || 1;
  const strip = 10,
    y = linear(low - room, high + room, box.bottom - strip - 8, box.top);
  const x = linear(0, count, box.left, box.right),
    half = (x(1) - x(0)) / 2,
    r = Math.max(1.6, Math.min(4.5, half * 0.6));
  const middle = i => x(i) + half,
    first = data.group * count;
  const labels = [0, count / 4, count / 2, (3 * count) / 4].map(Math.floor);
  axes(
    frame,
    y,
    niceTicks(low - room, high + room, 5),
    v => number(v),
    i => middle(i),
    labels,
    i => String(first + i),
    "input channel",
  );
  if ((most + 1) * count <= MOST_MARKS)
    root.append(svg("path", { class: "marks", d: ruler(data, most, y, middle, half, box) }));
  const largest = mean ? Math.max(...mean, 1e-30) : 1;
  weights.forEach((weight, i) => {
    const [cx, from, to] = [middle(i), y(weight), y(now[i])];
    if (mean)
      root.append(
        svg("rect", {
          class: "strip",
          x: x(i),
          width: 2 * half + 0.5,
          y: box.bottom - strip,
          height: strip,
          "fill-opacity": (mean[i] / largest).toFixed(3),
        }),
      );
    root.append(
      svg("line", { class: "stem", x1: cx, x2: cx, y1: from, y2: to }),
      svg("circle", { class: "ring", cx, cy: from, r: r + 0.8 }),
      svg("circle", { class: "dot", cx, cy: to, r: r * 0.75 }),
    );
    if (2 * half >= 15)
      root.append(
        svg(
          "text",
          { class: "code", x: cx, y: Math.min(from, to) - r - 4, "text-anchor": "middle" },
          String(codes[i]),
        ),
      );
  });
  root.append(
    svg("rect", {
      class: "outline",
      x: box.left,
      width: box.right - box.left,
      y: box.bottom - strip,
      height: strip,
    }),
  );
}

// Every value of a code: a channel with a larger scale has finer marks.
function ruler({ scale, zero, step }, most, y, middle, half, box) {
  const lines = [];
  scale.forEach((s, i) => {
    for (let code = 0; code <= most; code++) {
      const at = y(((code - zero) * step) / s);
      if (at > box.top && at < box.bottom - 16)
        lines.push(
          `M${(middle(i) - half * 0.8).toFixed(1)} ${at.toFixed(1)}h${(half * 1.6).toFixed(1)}`,
        );
    }
  });
  return lines.join("");
}
