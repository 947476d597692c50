// Panel 6: a chat that streams, beside the 16-bit reference where one runs.

import { byId, el, notice } from "./draw.js";
import { events, post } from "./net.js";
import { drawParting } from "./parting.js";

const NO_REFERENCE =
  "No 16-bit reference runs beside this checkpoint, so nothing can be compared. " +
  "Start the server with `--reference MODEL`.";
let scene,
  history = [],
  stopper = null,
  refresh = () => {};

export function startChat(given, after) {
  [scene, refresh] = [given, after];
  byId("chat-lead").textContent =
    (scene.chat
      ? "Ask the model something; the answer comes token by token."
      : "This is no chat model: give it the beginning of a text, and it goes on from there.") +
    (scene.reference
      ? ` The 16-bit reference, ${scene.reference}, answers beside it. Then the reference's ` +
        "answer is given to both, token by token, and each token is coloured by how far their " +
        "opinions of it were apart."
      : "");
  byId("ask-label").textContent = scene.chat ? "Your message" : "The beginning of a text";
  if (!scene.reference) notice("chat", NO_REFERENCE);
  byId("temperature").addEventListener("input", () => {
    byId("temperature-said").textContent = byId("temperature").value;
  });
  byId("ask").addEventListener("submit", event => {
    event.preventDefault();
    send();
  });
  byId("message").addEventListener("keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("ask").requestSubmit();
    }
  });
  byId("stop").addEventListener("click", () => stopper?.abort());
  byId("anew").addEventListener("click", () => {
    stopper?.abort();
    history = [];
    byId("turns").replaceChildren();
  });
}

async function send() {
  const said = byId("message").value.trim();
  if (!said || stopper) return;
  stopper = new AbortController();
  busy(true);
  byId("message").value = "";
  const asked = scene.chat
    ? { messages: [...history, { role: "user", content: said }] }
    : { prompt: said };
  const ours = answer("This checkpoint", scene.scheme ?? "16 bits"),
    theirs = scene.reference ? answer("The 16-bit reference", scene.reference) : null;
  const parting = el("div", { class: "parting" });
  byId("turns").append(
    el(
      "li",
      {},
      el("p", { class: "said" }, said),
      el("div", { class: theirs ? "answers pair" : "answers" }, ours.box, theirs?.box),
      parting,
    ),
  );
  const body = {
    ...asked,
    max_tokens: Number(byId("most").value) || 96,
    temperature: Number(byId("temperature").value),
    seed: Math.floor(Math.random() * 2 ** 31), // the same for both
  };
  const kind = scene.chat
    ? ["/v1/chat/completions", "/explorer/api/reference/chat"]
    : ["/v1/completions", "/explorer/api/reference/completions"];
  const [first, second] = await Promise.all([
    stream(kind[0], body, ours),
    theirs && stream(kind[1], body, theirs),
  ]);
  if (scene.chat) history = [...asked.messages, { role: "assistant", content: first }];
  if (second) await compare({ ...asked, answer: second }, parting);
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

async function compare(asked, parting) {
  parting.replaceChildren(el("p", { class: "note" }, "Comparing the two token by token …"));
  try {
    drawParting(parting, await post("/explorer/api/divergence", asked, stopper.signal));
  } catch (error) {
    parting.replaceChildren(
      el(
        "p",
        { class: "notice" },
        error.name === "AbortError" ? "Not compared: stopped." : error.message,
      ),
    );
  }
}
