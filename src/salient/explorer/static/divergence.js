// The reference's answer, each token coloured by its KL(reference || checkpoint).

import { el, number, percent } from "./draw.js";

const LEVELS = [0.01, 0.05, 0.25, 1]; // nats between the colours
const level = kl => LEVELS.filter(edge => kl >= edge).length;
const LABELS = ["below 0.01", "to 0.05", "to 0.25", "to 1", "1 nat and more"];
const shown = text => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "␣";
const quoted = text => `“${text.replace(/\n/g, "⏎")}”`;

export function drawDivergence(host, data) {
  const detail = el("div", { class: "detail", "aria-live": "polite" });
  const tokens = data.tokens.map((token, i) =>
    el(
      "button",
      {
        type: "button",
        class: `token kl${level(token.kl)}${token.same ? "" : " other"}`,
        tabindex: i ? -1 : 0,
        "aria-label":
          `${quoted(token.text)}, KL ${number(token.kl, 2)} nats` +
          (token.same ? "" : ", another most likely token"),
        onmouseenter: () => showDetail(detail, token),
        onfocus: () => showDetail(detail, token),
        onclick: () => showDetail(detail, token),
        onkeydown: event => walk(event, tokens, i),
      },
      shown(token.text),
    ),
  );
  const differ = data.tokens.filter(token => !token.same).length;
  host.replaceChildren(
    el("h3", {}, "Where they differ ", el("small", {}, "the reference's answer, read by both models")),
    el(
      "ul",
      { class: "legend" },
      LABELS.map((label, i) => el("li", {}, el("i", { class: `key token kl${i}` }), label)),
      el("li", {}, el("i", { class: "key token other" }), "another most likely token"),
    ),
    el(
      "div",
      {
        class: "tokens",
        role: "group",
        "aria-label": "Tokens of the reference's answer; arrow keys move from one to the next",
      },
      // A line break within a token breaks the line behind it.
      data.tokens.flatMap((token, i) =>
        token.text.includes("\n") ? [tokens[i], el("br")] : [tokens[i]],
      ),
    ),
    el(
      "p",
      { class: "note" },
      `Mean KL ${number(data.mean_kl)} nats a token; at ${differ} of ${data.tokens.length} ` +
        "positions the most likely token differs." +
        (data.cut ? ` The last ${data.cut} tokens were left out.` : "") +
        " Point at a token, or use the arrow keys, to see the probabilities of both models.",
    ),
    detail,
  );
  showDetail(
    detail,
    data.tokens.reduce((worst, token) => (token.kl > worst.kl ? token : worst)),
  );
}

function walk(event, tokens, i) {
  const to = {
    ArrowLeft: i - 1,
    ArrowUp: i - 1,
    ArrowRight: i + 1,
    ArrowDown: i + 1,
    Home: 0,
    End: tokens.length - 1,
  }[event.key];
  if (to === undefined || !tokens[to]) return;
  event.preventDefault();
  tokens[i].tabIndex = -1;
  tokens[to].tabIndex = 0;
  tokens[to].focus();
}

function showDetail(detail, token) {
  const side = (who, list, own) =>
    el(
      "div",
      {},
      el("h4", {}, who),
      el(
        "ol",
        {},
        list.map(({ text, p }) =>
          el(
            "li",
            { class: text === token.text ? "here" : null },
            el("span", { class: "word" }, quoted(text)),
            meter(p),
            el("span", { class: "number" }, percent(p)),
          ),
        ),
      ),
      el("p", { class: "note" }, `probability of this token: ${percent(own)}`),
    );
  detail.replaceChildren(
    el(
      "p",
      {},
      el("strong", {}, quoted(token.text)),
      ` KL ${number(token.kl)} nats`,
      token.same ? "" : ": the two models would continue differently",
    ),
    el(
      "div",
      { class: "sides" },
      side("16-bit reference", token.reference, token.p[0]),
      side("this checkpoint", token.quantized, token.p[1]),
    ),
  );
}

function meter(p) {
  return el("meter", { min: 0, max: 1, value: p, "aria-hidden": "true" });
}
