// Requests to this server: with the key if it wants one, streams, and the latest of many.

const KEY = "salient-key";
const dialog = document.getElementById("key-dialog");

export class Refused extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

export async function ask(path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = body ? { "Content-Type": "application/json" } : {};
    if (key) headers.Authorization = `Bearer ${key}`;
    let reply;
    try {
      reply = await fetch(path, {
        method: body ? "POST" : "GET",
        headers,
        signal,
        body: body && JSON.stringify(body),
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(0, "The server does not answer. Is it still running?");
    }
    if (reply.status === 401) {
      await askForKey(key !== null);
      continue;
    }
    if (!reply.ok) throw new Refused(reply.status, await wordsOf(reply));
    return reply;
  }
}

export const get = async path => (await ask(path)).json();
export const post = async (path, body, signal) => (await ask(path, body, signal)).json();

async function wordsOf(reply) {
  try {
    return (await reply.json()).error.message;
  } catch {
    return `The server answers with status ${reply.status}.`;
  }
}

let asking = null; // one dialog for all requests that wait
function askForKey(wrong) {
  asking ??= new Promise(resolve => {
    const form = document.getElementById("key-form");
    document.getElementById("key-wrong").hidden = !wrong;
    form.onsubmit = event => {
      event.preventDefault();
      sessionStorage.setItem(KEY, document.getElementById("key").value);
      asking = null;
      dialog.close();
      resolve();
    };
    dialog.oncancel = event => event.preventDefault();
    dialog.showModal();
  });
  return asking;
}

// The data of server-sent events, one by one; an error on the way is thrown.
export async function* events(path, body, signal) {
  const reply = await ask(path, { ...body, stream: true }, signal);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (left + value).split("\n\n");
    left = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(500, event.error.message);
      yield event;
    }
  }
}

// Runs `work` for the last of the arguments that come while it runs, and never twice at once.
export function latest(work) {
  let running = false,
    waiting = null;
  return async (...given) => {
    waiting = given;
    if (running) return;
    running = true;
    try {
      while (waiting) {
        const next = waiting;
        waiting = null;
        await work(...next);
      }
    } finally {
      running = false;
    }
  };
}
