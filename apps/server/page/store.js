/* SPDX-License-Identifier: MIT
 * Conversations and settings in localStorage. Each conversation has its own entry, so that two tabs do not write over
 * each other's list. All of it works, until the page is left, where storage is full or blocked.
 *
 * A conversation: {id, title, named, created, updated, system, messages}. A message: {role: "user" | "assistant",
 * content, reasoning, stats, end, error}; `end` says how an answer ended, see answer.js.
 */

const CONVERSATION = "pregate/conversation/";
const SETTINGS = "pregate/settings";
const FORMAT = "pregate-conversations";
const MOST_MESSAGES = 10000;
const MOST_IMPORTED = 2000;

let area = null;
try {
  area = window.localStorage;
} catch {
  /* blocked */
}

function read(name) {
  try {
    return JSON.parse(area.getItem(name));
  } catch {
    return null;
  }
}

/* False if the browser does not keep it. */
function write(name, value) {
  try {
    area.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/* crypto.randomUUID is not there on plain HTTP. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
}

/* ---------------------------------------------------------------- what may be in a file ------ */

const isText = (x) => typeof x === "string";
const timeOf = (x) => (Number.isFinite(x) && x > 0 ? x : Date.now());

function statsOf(value) {
  const stats = {};
  for (const [name, x] of Object.entries(value && typeof value === "object" ? value : {}))
    if (["tokens", "rate", "prompt", "cached", "first", "thought"].includes(name) && Number.isFinite(x))
      stats[name] = x;
  return stats;
}

function messageOf(value) {
  if (!value || !["user", "assistant"].includes(value.role) || !isText(value.content))
    return null;
  const message = { role: value.role, content: value.content };
  if (isText(value.reasoning) && value.reasoning)
    message.reasoning = value.reasoning;
  if (value.stats)
    message.stats = statsOf(value.stats);
  if (["stop", "length", "stopped", "lost"].includes(value.end))
    message.end = value.end;
  if (isText(value.error))
    message.error = value.error;
  return message;
}

/* A conversation with nothing in it but what is known, or null. */
function conversationOf(value) {
  if (!value || typeof value !== "object" || !Array.isArray(value.messages) || value.messages.length > MOST_MESSAGES)
    return null;
  const messages = value.messages.map(messageOf);
  if (messages.includes(null))
    return null;
  return {
    id: isText(value.id) && /^[0-9a-f]{24}$/.test(value.id) ? value.id : newId(),
    title: isText(value.title) ? value.title.slice(0, 200) : "",
    named: value.named === true,
    created: timeOf(value.created),
    updated: timeOf(value.updated),
    system: isText(value.system) ? value.system : "",
    messages,
  };
}

/* ---------------------------------------------------------------- conversations ------------- */

export function newConversation(system = "") {
  const now = Date.now();
  return { id: newId(), title: "", named: false, created: now, updated: now, system, messages: [] };
}

/* Nobody wrote to it and nobody named it: not worth a place in the list. */
export function isEmpty(conversation) {
  return !conversation.messages.length && !conversation.named;
}

export function loadConversations() {
  const names = [];
  try {
    for (let i = 0; i < area.length; i++)
      names.push(area.key(i));
  } catch {
    return [];
  }
  return names.filter((name) => name.startsWith(CONVERSATION)).map(read).map(conversationOf).filter(Boolean);
}

/* Empty ones are not kept, see isEmpty. */
export function saveConversation(conversation) {
  if (isEmpty(conversation))
    return true;
  return write(CONVERSATION + conversation.id, conversation);
}

export function forgetConversation(id) {
  try {
    area.removeItem(CONVERSATION + id);
  } catch {
    /* blocked: it was never kept */
  }
}

/* Calls back with the id and the conversation, or null, that another tab has written. */
export function onOtherTab(changed) {
  window.addEventListener("storage", (event) => {
    if (event.key && event.key.startsWith(CONVERSATION))
      changed(event.key.slice(CONVERSATION.length), conversationOf(read(event.key)));
  });
}

/* ---------------------------------------------------------------- files --------------------- */

export function exportText(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

/* The conversations of a file, all with ids of their own; throws a sentence. */
export function importText(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("The file is no JSON.");
  }
  if (!file || file.format !== FORMAT || file.version !== 1 || !Array.isArray(file.conversations))
    throw new Error("The file has no conversations of this page in it.");
  if (file.conversations.length > MOST_IMPORTED)
    throw new Error(`The file has more than ${MOST_IMPORTED} conversations.`);
  const conversations = file.conversations.map(conversationOf);
  const bad = conversations.indexOf(null);
  if (bad >= 0)
    throw new Error(`Conversation ${bad + 1} of the file cannot be read; nothing was taken.`);
  return conversations.map((conversation) => ({ ...conversation, id: newId() }));
}

/* ---------------------------------------------------------------- settings ------------------ */

export function loadSettings() {
  const value = read(SETTINGS);
  return value && typeof value === "object" && !Array.isArray(value) ? value : {};
}

export function saveSettings(settings) {
  return write(SETTINGS, settings);
}

/* A string, as theme.js reads it. */
export function saveTheme(theme) {
  try {
    area.setItem("pregate/theme", theme);
  } catch {
    /* blocked: it lasts until the page is left */
  }
}
