/* SPDX-License-Identifier: MIT
 * Requests to the server that this page came from, and its errors as sentences.
 */

const KEY = "pregate/key";
const MOST_EVENT = 16 << 20; /* characters of one event; more is no answer of ours */

/* Of this tab alone. Where storage is blocked, until the page is left. */
let key = "";
try {
  key = sessionStorage.getItem(KEY) || "";
} catch {
  /* blocked */
}

export const apiKey = () => key;

export function setApiKey(value) {
  key = value.trim();
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    /* blocked: it is kept in `key` */
  }
}

/* kind is "network", "key", "busy" (try again later) or "other". */
export class ServerError extends Error {
  constructor(kind, text, retryAfter = null) {
    super(text);
    this.kind = kind;
    this.retryAfter = retryAfter;
  }
}

export const lost = () => new ServerError("network", "The server cannot be reached. It may have been stopped.");

/* Retry-After has seconds, or a date. */
function retryAfter(headers) {
  const text = headers.get("Retry-After");
  if (text === null)
    return null;
  const wait = /^\d+$/.test(text.trim()) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return Number.isFinite(wait) ? Math.min(Math.max(Math.ceil(wait), 1), 300) : null;
}

/* What an error object says; servers between here and ours may send anything. */
export function messageOf(body) {
  const error = body && typeof body === "object" ? body.error : null;
  const text = typeof error === "string" ? error : error && error.message;
  return typeof text === "string" && text ? text.slice(0, 2000) : null;
}

async function errorOf(response) {
  let said = null;
  try {
    said = messageOf(await response.json());
  } catch {
    /* no JSON, then */
  }
  const after = retryAfter(response.headers);
  switch (response.status) {
  case 401:
    return new ServerError("key", key ? "The server does not know this API key." : "The server wants an API key.");
  case 429:
    return new ServerError("busy", `The server is busy${said ? `: ${said}` : ""}.`, after);
  case 502:
  case 503:
  case 504:
    return new ServerError("busy", `The server cannot answer now${said ? `: ${said}` : ""}.`, after);
  default:
    return new ServerError("other", said ? `The server refuses this: ${said}`
      : `The server answers with status ${response.status} and does not say why.`);
  }
}

async function send(path, options) {
  const headers = { ...options.headers };
  if (key)
    headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, headers, cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : lost();
  }
  if (!response.ok)
    throw await errorOf(response);
  return response;
}

export async function getJson(path, signal) {
  const response = await send(path, { signal });
  try {
    return await response.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError("other", "The server's answer is no JSON.");
  }
}

/* The data of each event of a stream of server-sent events. What has no end at the end is dropped. */
async function* eventsOf(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "", data = [];
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        throw error.name === "AbortError" ? error : lost();
      }
      if (piece.done)
        return;
      const lines = (rest + decoder.decode(piece.value, { stream: true })).split("\n");
      rest = lines.pop();
      if (rest.length > MOST_EVENT)
        throw new ServerError("other", "The server sends an event without an end.");
      for (const line of lines.map((text) => text.replace(/\r$/, ""))) {
        if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        } else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); /* whoever leaves the loop early closes the connection */
  }
}

export async function* getEvents(path, signal) {
  yield* eventsOf(await send(path, { signal, headers: { Accept: "text/event-stream" } }));
}

export async function* postEvents(path, body, signal) {
  yield* eventsOf(await send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify(body),
    signal,
  }));
}
