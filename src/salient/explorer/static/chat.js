// Panel 6: a streaming chat, next to the 16-bit reference if one runs.

import { byId, el, notice } from "./draw.js";
import { events, post } from "./net.js";
import { drawDivergence } from "./divergence.js";

const NO_REFERENCE =
  "No 16-bit reference runs next to this checkpoint, so nothing can be compared. " +
  "Start the server with `--reference MODEL`.";
let overview,
  history = [],
  stopper = null,
  refresh = () => {};

export function startChat(data, after) {
  [overview, refresh] = [data, after];
  byId("chat-lead").textContent =
    (overview.chat
      ? "Send the model a message; the answer streams token by token."
      : "This is not a chat model: it continues the beginning of a text.") +
    (overview.reference
      ? ` The 16-bit reference, ${overview.reference}, answers next to it. Then both models ` +
        "read the reference's answer, and each token is coloured by how much their " +
        "probabilities differ."
      : "");
  byId("message-label").textContent = overview.chat ? "Your message" : "The beginning of a text";
  if (!overview.reference) notice("chat", NO_REFERENCE);
  byId("temperature").addEventListener("input", () => {
    byId("temperature-value").textContent = byId("temperature").value;
  });
  byId("chat-form").addEventListener("submit", event => {
    event.preventDefault();
    send();
  });
  byId("message").addEventListener("keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("chat-form").requestSubmit();
    }
  });
  byId("stop").addEventListener("click", () => stopper?.abort());
  byId("restart").addEventListener("click", () => {
    stopper?.abort();
    history = [];
    byId("turns").replaceChildren();
  });
}

async function send() {
  const message = byId("message").value.trim();
  if (!message || stopper) return;
  stopper = new AbortController();
  busy(true);
  byId("message").value = "";
  const query = overview.chat
    ? { messages: [...history, { role: "user", content: message }] }
    : { prompt: message };
  const own = answer("This checkpoint", overview.scheme ?? "16 bits"),
    other = overview.reference ? answer("The 16-bit reference", overview.reference) : null;
  const comparison = el("div", { class: "divergence" });
  byId("turns").append(
    el(
      "li",
      {},
      el("p", { class: "prompt" }, message),
      el("div", { class: other ? "answers pair" : "answers" }, own.box, other?.box),
      comparison,
    ),
  );
  const body = {
    ...query,
    max_tokens: Number(byId("most").value) || 96,
    temperature: Number(byId("temperature").value),
    seed: Math.floor(Math.random() * 2 ** 31), // the same for both
  };
  const kind = overview.chat
    ? ["/v1/chat/completions", "/explorer/api/reference/chat"]
    : ["/v1/completions", "/explorer/api/reference/completions"];
  const [first, second] = await Promise.all([
    stream(kind[0], body, own),
    other && stream(kind[1], body, other),
  ]);
  if (overview.chat) history = [...query.messages, { role: "assistant", content: first }];
  if (second) await compare({ ...query, answer: second }, comparison);
  stopper = null;
  busy(false);
  refresh();
}

function busy(now) {
  byId("turns").setAttribute("aria-busy", String(now));
  byId("send").disabled = now;
  byId("stop").disabled = !now;
}

function answer(who, what) {
  const text = el("p", { class: "text" }),
    speed = el("small", {}),
    heading = el("h3", {}, who, " ", el("small", {}, what));
  return { box: el("div", { class: "answer" }, heading, text, speed), text, speed };
}

async function stream(path, body, into) {
  const started = performance.now();
  let whole = "",
    first = 0,
    tokens = 0;
  try {
    for await (const event of events(
      path,
      { ...body, stream_options: { include_usage: true } },
      stopper.signal,
    )) {
      if (event.usage) tokens = event.usage.completion_tokens;
      const choice = event.choices[0],
        piece = choice?.delta?.content ?? choice?.text ?? "";
      if (!piece) continue;
      first ||= performance.now();
      whole += piece;
      into.text.append(piece);
    }
    const seconds = (performance.now() - first) / 1000;
    into.speed.textContent =
      tokens > 1
        ? `${tokens} tokens, the first after ${Math.round(first - started)} ms, ` +
          `then ${((tokens - 1) / seconds).toFixed(1)} a second`
        : `${tokens} token`;
  } catch (error) {
    into.speed.textContent = error.name === "AbortError" ? "stopped" : error.message;
  }
  return whole;
}

async function compare(query, host) {
  host.replaceChildren(el("p", { class: "note" }, "Comparing the two token by token …"));
  try {
    drawDivergence(host, await post("/explorer/api/divergence", query, stopper.signal));
  } catch (error) {
    host.replaceChildren(
      el(
        "p",
        { class: "notice" },
        error.name === "AbortError" ? "Not compared: stopped." : error.message,
      ),
    );
  }
}
