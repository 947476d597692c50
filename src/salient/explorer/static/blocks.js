// Panel 1: output error of each block, kinds of layers, the worst layers.

import { axes, byId, chart, el, logTicks, logarithmic, percent, svg } from "./draw.js";
import { drawTable } from "./panel.js";

let at = 0,
  redraw = () => {};

export function drawBlocks(overview, choose) {
  const { blocks, kinds, worst } = overview.evidence;
  const indexOf = name => overview.blocks.indexOf(name);
  redraw = () =>
    chart(
      byId("blocks-chart"),
      "Output error of each block; the table below has the figures",
      frame => marks(frame, blocks, choose),
    );
  redraw();
  describe(blocks, kinds);
  drawTable(
    "kinds",
    "Output error by kind of layer",
    [["layer"], ["plain", true], ["as written", true], ["worst in"]],
    kinds.map(k => [
      k.kind,
      percent(k.plain),
      percent(k.awq),
      el(
        "button",
        {
          type: "button",
          class: "link",
          onclick: () => choose(indexOf(k.worst_block), k.kind),
        },
        `block ${indexOf(k.worst_block)}`,
      ),
    ]),
  );
  drawTable(
    "worst",
    "The layers with the largest output error",
    [["layer"], ["plain", true], ["as written", true]],
    worst
      .slice(0, 8)
      .map(w => [
        el(
          "button",
          { type: "button", class: "link", onclick: () => choose(indexOf(w.block), w.layer) },
          `${indexOf(w.block)} · ${w.layer}`,
        ),
        percent(w.plain),
        percent(w.awq),
      ]),
  );
  drawTable(
    "blocks-table",
    "Output error of each block",
    [["block"], ["plain", true], ["as written", true], ["plain rounding for"]],
    blocks.map((b, i) => [
      String(i),
      percent(b.plain),
      percent(b.awq),
      b.fell_back ? "the whole block" : b.plain_groups.join("; "),
    ]),
  );
}

export function markBlock(block) {
  at = block;
  redraw();
}

function describe(blocks, kinds) {
  const ratio = Math.exp(
    blocks.reduce((sum, b) => sum + Math.log((b.plain + 1e-12) / (b.awq + 1e-12)), 0) /
      blocks.length,
  );
  const fell = blocks.flatMap((b, i) => (b.fell_back ? [i] : []));
  const partly = blocks.filter(b => !b.fell_back && b.plain_groups.length).length;
  byId("blocks-note").textContent = [
    `AWQ leaves ${ratio.toFixed(1)} times less error than plain rounding ` +
      "(geometric mean over blocks).",
    kinds.length ? `${kinds[0].kind} has the largest error.` : "",
    fell.length
      ? `Blocks ${fell.join(", ")} fell back to plain rounding.`
      : "No block fell back to plain rounding.",
    partly ? `Some layers of ${partly === 1 ? "one block" : `${partly} blocks`} did.` : "",
  ]
    .filter(Boolean)
    .join(" ");
}

function marks(frame, blocks, choose) {
  const { root, box } = frame,
    values = blocks.flatMap(b => [b.plain, b.awq]).filter(v => v > 0);
  const low = Math.min(...values) / 1.4,
    high = Math.max(...values) * 1.4;
  const y = logarithmic(low, high, box.bottom, box.top),
    step = (box.right - box.left) / blocks.length;
  const x = i => box.left + (i + 0.5) * step;
  const every = Math.max(1, Math.ceil(26 / step)),
    labels = blocks.map((_, i) => i).filter(i => i % every === 0);
  axes(frame, y, logTicks(low, high), percent, x, labels, String, "block");
  blocks.forEach((b, i) => {
    const half = Math.min(step / 2, 14),
      r = Math.min(5, Math.max(2.5, step / 4));
    root.append(
      svg(
        "g",
        {
          class: i === at ? "column-mark chosen" : "column-mark",
          role: "button",
          tabindex: i === at ? 0 : -1,
          "data-number": String(i),
          "aria-pressed": String(i === at),
          "aria-label":
            `block ${i}: ${percent(b.plain)} by plain rounding, ${percent(b.awq)} as written` +
            (b.fell_back ? ", fell back" : ""),
          onclick: () => choose(i),
          onkeydown: event => move(event, i, blocks.length, choose),
        },
        svg("rect", {
          class: "hit",
          x: x(i) - step / 2,
          width: step,
          y: box.top,
          height: box.bottom - box.top,
        }),
        svg("rect", {
          class: "halo",
          x: x(i) - half,
          width: 2 * half,
          y: box.top - 6,
          height: box.bottom - box.top + 10,
          rx: 4,
        }),
        svg("line", { class: "stem", x1: x(i), x2: x(i), y1: y(b.plain), y2: y(b.awq) }),
        svg("circle", { class: "ring", cx: x(i), cy: y(b.plain), r }),
        b.fell_back
          ? svg("path", {
              class: "cross",
              d: `M${x(i) - r} ${y(b.awq) - r}l${2 * r} ${2 * r}m0 ${-2 * r}l${-2 * r} ${2 * r}`,
            })
          : svg("circle", { class: "dot", cx: x(i), cy: y(b.awq), r }),
      ),
    );
  });
}

function move(event, i, count, choose) {
  const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: count - 1, Enter: i, " ": i }[
    event.key
  ];
  if (to === undefined || to < 0 || to >= count) return;
  event.preventDefault();
  choose(to);
  byId("blocks-chart").querySelector(`[data-number="${to}"]`)?.focus();
}
