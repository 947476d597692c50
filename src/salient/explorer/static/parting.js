// The reference's answer, each token coloured by KL(reference || checkpoint) at its place.

import { el, number, percent } from "./draw.js";

const LEVELS = [0.01, 0.05, 0.25, 1]; // nats between the colours
const level = kl => LEVELS.filter(edge => kl >= edge).length;
const WORDS = ["below 0.01", "to 0.05", "to 0.25", "to 1", "1 nat and more"];
const shown = text => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "␣";
const quoted = text => `“${text.replace(/\n/g, "⏎")}”`;

export function drawParting(host, found) {
  const detail = el("div", { class: "detail", "aria-live": "polite" });
  const tokens = found.tokens.map((token, i) =>
    el(
      "button",
      {
        type: "button",
        class: `token kl${level(token.kl)}${token.same ? "" : " other"}`,
        tabindex: i ? -1 : 0,
        "aria-label":
          `${quoted(token.text)}, KL ${number(token.kl, 2)} nats` +
          (token.same ? "" : ", another favourite"),
        onmouseenter: () => tell(detail, token),
        onfocus: () => tell(detail, token),
        onclick: () => tell(detail, token),
        onkeydown: event => walk(event, tokens, i),
      },
      shown(token.text),
    ),
  );
  const differ = found.tokens.filter(token => !token.same).length;
  host.replaceChildren(
    el("h3", {}, "Where they part ", el("small", {}, "the reference's answer, read by both")),
    el(
      "ul",
      { class: "legend" },
      WORDS.map((words, i) => el("li", {}, el("i", { class: `key token kl${i}` }), words)),
      el("li", {}, el("i", { class: "key token other" }), "another favourite"),
    ),
    el(
      "div",
      {
        class: "tokens",
        role: "group",
        "aria-label": "Tokens of the reference's answer; arrow keys go from one to the next",
      },
      // A line break within a token breaks the line behind it.
      found.tokens.flatMap((token, i) =>
        token.text.includes("\n") ? [tokens[i], el("br")] : [tokens[i]],
      ),
    ),
    el(
      "p",
      { class: "note" },
      `Mean KL ${number(found.mean_kl)} nats a token; at ${differ} of ${found.tokens.length} ` +
        "places the likeliest token is another." +
        (found.cut ? ` The last ${found.cut} tokens were left out.` : "") +
        " Point at a token, or go there with the arrow keys, to see both opinions.",
    ),
    detail,
  );
  tell(
    detail,
    found.tokens.reduce((worst, token) => (token.kl > worst.kl ? token : worst)),
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

function tell(detail, token) {
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
      el("p", { class: "note" }, `gave this token ${percent(own)}`),
    );
  detail.replaceChildren(
    el(
      "p",
      {},
      el("strong", {}, quoted(token.text)),
      ` KL ${number(token.kl)} nats`,
      token.same ? "" : ": the two would have gone on differently",
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
