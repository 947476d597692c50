// Requests to this server, with its key if it requires one; streams; and the latest of many calls.

const KEY = "salient-key";
const dialog = document.getElementById("key-dialog");

export class RequestFailed extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function request(path, body, signal) {
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
      throw new RequestFailed(0, "The server does not respond. Is it still running?");
    }
    if (reply.status === 401) {
      await requestKey(key !== null);
      continue;
    }
    if (!reply.ok) throw new RequestFailed(reply.status, await errorMessage(reply));
    return reply;
  }
}

export const get = async path => (await request(path)).json();
export const post = async (path, body, signal) => (await request(path, body, signal)).json();

async function errorMessage(reply) {
  try {
    return (await reply.json()).error.message;
  } catch {
    return `The server responded with status ${reply.status}.`;
  }
}

let pendingKey = null; // one dialog for all waiting requests
function requestKey(wrong) {
  pendingKey ??= new Promise(resolve => {
    const form = document.getElementById("key-form");
    document.getElementById("key-wrong").hidden = !wrong;
    form.onsubmit = event => {
      event.preventDefault();
      sessionStorage.setItem(KEY, document.getElementById("key").value);
      pendingKey = null;
      dialog.close();
      resolve();
    };
    dialog.oncancel = event => event.preventDefault();
    dialog.showModal();
  });
  return pendingKey;
}

// The data of server-sent events, one by one; throws errors in the stream.
export async function* events(path, body, signal) {
  const reply = await request(path, { ...body, stream: true }, signal);
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
      if (event.error) throw new RequestFailed(500, event.error.message);
      yield event;
    }
  }
}

// Runs `work` with the latest arguments that came while it ran, and never twice at once.
export function latest(work) {
  let running = false,
    waiting = null;
  return async (...args) => {
    waiting = args;
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
