// Panel 2: mean |activation| of the channels, largest first.

import { axes, linear, logTicks, logarithmic, number, path, percent, svg } from "./draw.js";
import { drawPanel, drawTable, level } from "./panel.js";

export function drawSalience(data) {
  if (!drawPanel("salience", data, figure)) return;
  drawTable(
    "salience-table",
    "The largest channels",
    [["channel"], ["mean |x|", true], ["scale, median = 1", true]],
    data.top.map(t => [
      String(t.channel),
      number(t.mean_abs),
      t.scale === null ? "–" : number(t.scale),
    ]),
  );
}

function figure(data) {
  const times = data.largest / Math.max(data.median, 1e-30);
  const carry = data.salient === 1 ? "one carries" : `${data.salient} carry`;
  return {
    note:
      `The input of ${data.readers.slice(0, 3).join(", ")}: ` +
      `the largest of ${data.channels} channels is ${number(times)} times the median, and the ` +
      `largest ${carry} ${percent(data.share)} of all magnitude. ` +
      `Measured on ${data.tokens} tokens.`,
    label: `Mean size of ${data.channels} channels, sorted`,
    marks: frame => marks(frame, data),
  };
}

function marks(frame, { ranks, values, salient, channels, median }) {
  const { root, box } = frame,
    live = values.filter(v => v > 0);
  const high = Math.max(...live, 1e-9) * 1.25,
    low = Math.max(Math.min(...live), high / 1e5) / 1.25;
  const y = logarithmic(low, high, box.bottom, box.top),
    x = linear(0, channels - 1, box.left, box.right);
  axes(
    frame,
    y,
    logTicks(low, high),
    v => number(v),
    x,
    [0, Math.round(channels / 2), channels - 1],
    String,
    "rank of the channel",
  );
  const points = ranks.map((rank, i) => [x(rank), y(values[i])]);
  const top = points.filter((_, i) => ranks[i] < salient),
    edge = Math.max(x(salient), box.left + 4);
  root.append(
    svg("rect", {
      class: "salient-band",
      x: box.left,
      width: edge - box.left,
      y: box.top,
      height: box.bottom - box.top,
    }),
    svg("path", { class: "line", d: path(points) }),
    ...level(frame, y(median), `median ${number(median)}`, {
      x: box.right,
      y: y(median) - 6,
      "text-anchor": "end",
    }),
    ...top.map(([cx, cy]) => svg("circle", { class: "dot salient", cx, cy, r: 3.5 })),
    svg(
      "text",
      { class: "label salient", x: edge + 8, y: box.top + 12 },
      `largest 1 %: ${salient} channel${salient > 1 ? "s" : ""}`,
    ),
  );
}
