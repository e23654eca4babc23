/* SPDX-License-Identifier: MIT
 * One answer: the request, its stream, and when to try again.
 *
 * A run is what is going on now, and is not kept: {conversation, message, stop(), progress, waiting, first, reads}.
 * What came is in its message, whose `end` becomes "stop" or "length" (the model ended, or the room did), "stopped"
 * (by the reader) or "lost" (it broke off); with `error`, a sentence, if something went wrong.
 */
import { ServerError, lost, messageOf, postEvents } from "./api.js";
import { isNumber } from "./dom.js";

const MOST_TRIES = 10;
const WAIT_SECONDS = 3; /* where the server does not say */

/* The body of the request. Thoughts are not sent again: templates leave them out. */
function bodyOf(conversation, message, settings) {
  const messages = [];
  if (conversation.system.trim())
    messages.push({ role: "system", content: conversation.system });
  for (const m of conversation.messages)
    if (m !== message && (m.role === "user" || m.content))
      messages.push({ role: m.role, content: m.content });
  const body = {
    messages,
    stream: true,
    stream_options: { include_usage: true },
    return_progress: true,
    ...settings.sampling,
  };
  if (settings.schema)
    body.response_format = { type: "json_schema", json_schema: { name: "answer", schema: settings.schema } };
  return body;
}

function takeStats(message, event) {
  const { usage, timings } = event;
  const stats = message.stats || {};
  if (usage && isNumber(usage.completion_tokens)) {
    stats.tokens = usage.completion_tokens;
    stats.prompt = usage.prompt_tokens;
    stats.cached = usage.prompt_tokens_details ? usage.prompt_tokens_details.cached_tokens : 0;
  }
  if (timings && isNumber(timings.predicted_per_second))
    stats.rate = timings.predicted_per_second;
  message.stats = stats;
}

/* A piece of the answer came; the first one ends the reading of the prompt. */
function takeDelta(run, choice) {
  const { message } = run;
  const { content, reasoning_content: reasoning } = choice.delta || {};
  const now = performance.now();
  if ((content || reasoning) && run.first === null) {
    run.first = now;
    run.progress = null;
    message.stats = { ...message.stats, first: (now - run.start) / 1000 };
  }
  if (reasoning)
    message.reasoning = (message.reasoning || "") + reasoning;
  if (content) {
    if (message.reasoning && message.stats.thought === undefined)
      message.stats.thought = (now - run.first) / 1000;
    message.content += content;
  }
  if (choice.finish_reason)
    message.end = choice.finish_reason === "length" ? "length" : "stop";
}

function take(run, event) {
  const wrong = messageOf(event);
  if (wrong)
    throw new ServerError("other", `The server broke off: ${wrong}`);
  const p = event.prompt_progress;
  if (p && isNumber(p.total) && run.first === null)
    run.progress = { total: p.total, done: Math.max(p.processed || 0, p.cache || 0), cached: p.cache || 0 };
  if (Array.isArray(event.choices) && event.choices[0])
    takeDelta(run, event.choices[0]);
  if (event.usage || event.timings)
    takeStats(run.message, event);
}

async function once(run, body, changed) {
  run.start = performance.now();
  run.first = null;
  for await (const data of postEvents("v1/chat/completions", body, run.controller.signal)) {
    if (data === "[DONE]")
      return;
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      throw new ServerError("other", "The server sends an event that is no JSON.");
    }
    take(run, event);
    changed(run);
  }
  if (!run.message.end) /* some servers do not say [DONE]; but an answer that has not ended was cut */
    throw new ServerError("network", "The answer broke off: the connection ended before it did.");
}

/* Waits, and wakes early if asked to or stopped. */
function pause(run, seconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    run.wake = () => {
      clearTimeout(timer);
      resolve();
    };
    run.controller.signal.addEventListener("abort", run.wake, { once: true });
  });
}

async function tryOften(run, body, changed) {
  for (let left = MOST_TRIES; ; left--) {
    try {
      await once(run, body, changed);
      return;
    } catch (error) {
      if (error.kind !== "busy" || left === 1 || run.first !== null)
        throw error;
      const wait = error.retryAfter || WAIT_SECONDS;
      run.waiting = { why: error.message, until: Date.now() + 1000 * wait };
      changed(run);
      await pause(run, wait);
      run.waiting = null;
      changed(run);
      if (run.controller.signal.aborted)
        throw new DOMException("", "AbortError");
    }
  }
}

export function startRun(conversation, message) {
  const controller = new AbortController();
  return { conversation, message, controller, progress: null, waiting: null, first: null, start: performance.now(),
           stop: () => controller.abort(), wake: () => {} };
}

/* Fills run.message; returns the error, or null. `changed` is called for each event. */
export async function answer(run, settings, changed) {
  const { message } = run;
  try {
    await tryOften(run, bodyOf(run.conversation, message, settings), changed);
    return null;
  } catch (error) {
    if (run.controller.signal.aborted) {
      message.end = "stopped";
      return null;
    }
    const known = error instanceof ServerError ? error : lost();
    message.end = "lost";
    message.error = known.message;
    return known;
  }
}
