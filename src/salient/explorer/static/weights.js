// A group of weights beside what their codes stand for: chart, errors, table.

import {
  axes,
  byId,
  chart,
  linear,
  niceTicks,
  number,
  path,
  percent,
  scroll,
  svg,
  table,
} from "./draw.js";

const WAYS = [
  ["now", "as the sliders say"],
  ["written", "as the checkpoint has it"],
  ["plain", "plain rounding, these bits and groups"],
];
const MOST_MARKS = 4200; // of the ruler, that can be told apart

// scheme: the checkpoint's own, as it is called; null if it has none
export function drawGroup(found, scheme) {
  const first = found.group * found.weights.length,
    last = first + found.weights.length - 1;
  byId("group-said").textContent =
    `Row ${found.row}, channels ${first} to ${last} of ${found.layer}`;
  byId("group-words").textContent =
    `${found.scheme}: ${number(found.bits_per_weight, 4)} bits a weight with the rulers. ` +
    `Zero is at mark ${found.zero}, a step is ${number(found.step)}.`;
  chart(
    byId("group-chart"),
    "Weights and what their codes stand for; the table below has the figures",
    frame => marks(frame, found),
  );
  errors(found.errors, scheme);
  const { now, written } = found.values;
  byId("group-table").replaceChildren(
    scroll(
      table(
        "Weights and codes",
        [
          ["channel"],
          ["weight", true],
          ["code", true],
          ["stands for", true],
          ["scale", true],
          ["written code", true],
          ["stands for", true],
          ["mean |x|", true],
        ],
        found.weights.map((w, i) => [
          String(first + i),
          number(w, 4),
          String(found.codes[i]),
          number(now[i], 4),
          number(found.scale[i]),
          found.written_codes ? String(found.written_codes[i]) : "–",
          number(written?.[i], 4),
          number(found.mean_abs?.[i]),
        ]),
      ),
    ),
  );
}

function errors(found, scheme) {
  const rows = WAYS.map(([way, about]) => {
    const e = found[way],
      words = way === "written" && scheme ? `${about} (${scheme})` : about;
    return e
      ? [words, percent(e.weight), percent(e.output), percent(e.layer)]
      : [words, "–", "–", "–"];
  });
  byId("group-errors").replaceChildren(
    scroll(
      table(
        "Errors",
        [
          ["error"],
          ["of the group's weights", true],
          ["of the group's output", true],
          ["of the layer's output", true],
        ],
        rows,
      ),
    ),
  );
}

function marks(frame, found) {
  const { root, box } = frame,
    { weights, scale, codes, mean_abs: mean } = found,
    count = weights.length;
  const now = found.values.now,
    most = 2 ** Number(found.scheme.match(/^w(\d+)/)[1]) - 1;
  const low = Math.min(...weights, ...now),
    high = Math.max(...weights, ...now),
    room = (high - low) * 0.06 || 1;
  const strip = 10,
    y = linear(low - room, high + room, box.bottom - strip - 8, box.top);
  const x = linear(0, count, box.left, box.right),
    half = (x(1) - x(0)) / 2,
    r = Math.max(1.6, Math.min(4.5, half * 0.6));
  const middle = i => x(i) + half,
    first = found.group * count;
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
    root.append(svg("path", { class: "marks", d: ruler(found, most, y, middle, half, box) }));
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

// Every value that a code can stand for: a channel with a larger scale has finer marks.
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
