// What panels share: a note, a chart and a table under the panel's name, or the reason for none.

import { byId, chart, missing, scroll, svg, table } from "./draw.js";

// Fills NAME-note and NAME-chart from `parts(data)`: { note, label, marks }; false without data.
export function drawPanel(name, data, parts) {
  missing(name, data.why);
  if (data.why) return false;
  drawFigure(name, parts(data));
  return true;
}

export function drawFigure(name, { note, label, marks }) {
  byId(`${name}-note`).textContent = note;
  chart(byId(`${name}-chart`), label, marks);
}

export function drawTable(id, caption, columns, rows) {
  byId(id).replaceChildren(scroll(table(caption, columns, rows)));
}

// A horizontal line across the chart with its label, at `place`.
export const level = ({ box }, y, text, place) => [
  svg("line", { class: "level", x1: box.left, x2: box.right, y1: y, y2: y }),
  svg("text", { class: "label", ...place }, text),
];
