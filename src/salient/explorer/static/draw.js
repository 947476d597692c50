// Elements, formatted numbers, tables, and SVG charts with axes.

const SVG = "http://www.w3.org/2000/svg";

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined));
  return element;
}

export const el = (tag, attributes = {}, ...children) =>
  build(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) =>
  build(document.createElementNS(SVG, tag), attributes, children);
export const byId = id => document.getElementById(id);

// A share in per cent, with two or three significant digits.
export const percent = value => {
  if (value === null || value === undefined) return "–";
  const hundred = 100 * value;
  return `${Number(hundred.toPrecision(hundred >= 10 ? 3 : 2))} %`;
};
export const number = (value, digits = 3) =>
  value === null || value === undefined
    ? "–"
    : Math.abs(value) >= 1000 || value === 0
      ? String(Math.round(value))
      : String(Number(value.toPrecision(digits)));
export const mebibytes = bytes =>
  `${(bytes / 2 ** 20).toLocaleString("en", { maximumFractionDigits: 0 })} MiB`;

// columns: [heading, is a number]; rows: cells, text or nodes
export function table(caption, columns, rows) {
  const cell = (value, i, tag) =>
    el(tag, { class: columns[i][1] ? "number" : null, scope: tag === "th" ? "row" : null }, value);
  return el(
    "table",
    {},
    el("caption", { class: "visually-hidden" }, caption),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        columns.map(([name, numeric]) =>
          el("th", { scope: "col", class: numeric ? "number" : null }, name),
        ),
      ),
    ),
    el(
      "tbody",
      {},
      rows.map(row =>
        el(
          "tr",
          {},
          row.map((value, i) => cell(value, i, i ? "td" : "th")),
        ),
      ),
    ),
  );
}

export const scroll = (...children) =>
  el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" }, ...children);

// A notice under a panel's heading, or none; text in backquotes is code.
export function notice(panel, message) {
  const parts = message.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));
  byId(`${panel}-missing`).hidden = !message;
  byId(`${panel}-missing`).replaceChildren(...parts);
}

// Shows the panel, or the reason why its data are missing.
export function missing(panel, reason) {
  notice(panel, reason);
  byId(`${panel}-body`).classList.toggle("absent", Boolean(reason));
}

// A chart that fills `host`, redrawn when its width changes. draw(frame) adds the marks.
const drawn = new WeakMap();
const resized = new ResizeObserver(entries => entries.forEach(({ target }) => paint(target)));
export function chart(host, label, draw) {
  const known = drawn.has(host);
  drawn.set(host, { label, draw });
  if (known) paint(host);
  else resized.observe(host);
}

function paint(host) {
  const { label, draw } = drawn.get(host);
  const { clientWidth: width, clientHeight: height } = host;
  if (!width || !height) return;
  const focus = host.contains(document.activeElement) && document.activeElement.dataset.number;
  const root = svg("svg", {
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    "aria-label": label,
  });
  const box = { left: 52, top: 12, right: width - 14, bottom: height - 34 };
  draw({ root, box, width, height });
  root.setAttribute("role", root.querySelector("[role]") ? "group" : "img");
  host.replaceChildren(root);
  if (focus) host.querySelector(`[data-number="${focus}"]`)?.focus();
}

export const linear = (low, high, from, to) => {
  const span = high - low || 1;
  return value => from + ((value - low) / span) * (to - from);
};
export const logarithmic = (low, high, from, to) => {
  const scale = linear(Math.log(low), Math.log(high), from, to);
  return value => scale(Math.log(Math.max(value, low)));
};

export function niceTicks(low, high, count) {
  const rough = (high - low) / count,
    power = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 2.5, 5, 10].map(n => n * power).find(n => n >= rough * 0.999) || power;
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-9) + 1e-12; i++)
    ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

export function logTicks(low, high) {
  const ticks = [],
    factors = Math.log10(high / low) > 2.5 ? [1] : [1, 2, 5];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const factor of factors) {
      const tick = Number((factor * 10 ** power).toPrecision(3));
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  return ticks;
}

// Grid lines with their labels, and the name of the bottom axis.
export function axes({ root, box }, y, yTicks, yLabel, x, xTicks, xLabel, bottom) {
  for (const tick of yTicks)
    root.append(
      svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: box.left - 8, y: y(tick) + 4, "text-anchor": "end" }, yLabel(tick)),
    );
  for (const tick of xTicks)
    root.append(
      svg("text", { x: x(tick), y: box.bottom + 16, "text-anchor": "middle" }, xLabel(tick)),
    );
  root.append(
    svg(
      "text",
      { x: (box.left + box.right) / 2, y: box.bottom + 31, "text-anchor": "middle" },
      bottom,
    ),
  );
}

export const path = points =>
  points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
