/* SPDX-License-Identifier: MIT
 * The page as a whole: which conversation is shown, and what may be done with it.
 */
import { answer, startRun } from "./answer.js";
import { getJson } from "./api.js";
import { byId, count, el, say, setText, toast } from "./dom.js";
import { Panels } from "./panels.js";
import { Picture } from "./picture.js";
import { Settings } from "./settings.js";
import * as store from "./store.js";
import { Thread, fit } from "./thread.js";

const NEAR_END = 80;    /* pixels from the end at which a reader follows it */
const SAVE_MS = 1000;   /* between saves of an answer that comes */
const SHOW_MS = 60;     /* between pictures of it */
const LARGEST_FILE = 64 << 20;

const all = new Map(); /* id → conversation */
const runs = new Map(); /* id → run */
const errorKinds = new WeakMap(); /* message → kind of its error */
const settings = store.loadSettings();
let current = store.newConversation();
let warnedOfStorage = false;
let greeting = 0; /* the latest, see greet() */

const thread = new Thread(byId("thread"), { retry, edit, remove, remedies });
const picture = new Picture();
const panels = new Panels({ settings, keep: keepSettings, recolored: () => picture.recolor(), resizing: keepEnd });
const dialog = new Settings({
  settings,
  keep: keepSettings,
  system: () => current.system,
  setSystem(text) {
    current.system = text;
    save(current, false);
  },
  keyChanged() {
    greet();
    picture.again();
  },
});

/* ---------------------------------------------------------------- conversations ------------- */

function keepSettings() {
  store.saveSettings({ ...settings, current: current.id });
}

function titleOf(conversation) {
  return conversation.title || "New conversation";
}

/* The first words of the first message, until somebody gives a name. */
function nameByText(conversation) {
  if (conversation.named)
    return;
  const first = conversation.messages.find((m) => m.role === "user");
  const line = first ? first.content.trim().split("\n")[0] : "";
  conversation.title = line.length > 60 ? `${line.slice(0, 57).trimEnd()}…` : line;
}

function save(conversation, touched = true) {
  if (touched)
    conversation.updated = Date.now();
  const kept = store.saveConversation(conversation);
  if (!kept && !warnedOfStorage) {
    warnedOfStorage = true;
    toast("This browser keeps nothing more: storage is full or blocked. Export what you want to have later.", null, 15);
  }
}

function open(conversation) {
  if (current !== conversation && store.isEmpty(current))
    all.delete(current.id);
  current = conversation;
  all.set(conversation.id, conversation);
  keepSettings();
  showAll();
  byId("scroll").scrollTop = byId("scroll").scrollHeight;
}

function begin() {
  open(store.isEmpty(current) ? current : store.newConversation(current.system));
  panels.closeDrawer();
  byId("entry").focus();
}

function removeConversation(conversation) {
  const run = runs.get(conversation.id);
  if (run)
    run.stop();
  all.delete(conversation.id);
  store.forgetConversation(conversation.id);
  if (conversation === current)
    open(sorted()[0] || store.newConversation());
  else
    showList();
  focusCurrent();
  toast(`“${titleOf(conversation)}” is deleted.`, { name: "Undo", act: () => {
    all.set(conversation.id, conversation);
    save(conversation, false);
    open(conversation);
  } });
}

function rename(conversation, row) {
  const box = el("input", { type: "text", maxlength: "200", "aria-label": "Name of the conversation" });
  let over = false;
  const close = (take) => {
    if (over)
      return;
    over = true;
    if (take) {
      conversation.title = box.value.trim();
      conversation.named = conversation.title !== "";
      nameByText(conversation);
      save(conversation, false);
    }
    box.remove();
    showAll();
    focusCurrent();
  };
  box.value = conversation.title;
  box.addEventListener("blur", () => close(true));
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      close(event.key === "Enter");
    }
  });
  row.replaceChildren(box);
  box.focus();
  box.select();
}

function sorted() {
  return [...all.values()].sort((a, b) => b.updated - a.updated);
}

function focusCurrent() {
  const button = byId("conversations").querySelector("[aria-current]") || byId("new");
  button.focus();
}

function listRow(conversation) {
  const shown = conversation === current;
  const row = el("li", { class: shown ? "shown" : null, "data-id": conversation.id });
  const show = () => {
    open(conversation);
    panels.closeDrawer();
    focusCurrent();
  };
  row.append(el("button", { type: "button", class: "conversation", "aria-current": shown && "true", onclick: show },
    el("span", {}, titleOf(conversation)),
    runs.has(conversation.id) ? el("span", { class: "dot busy", role: "img", "aria-label": "is answered" }) : null));
  if (shown) {
    const tool = (text, act) => el("button", { type: "button", class: "text", onclick: act }, text);
    row.append(el("div", { class: "row" },
      tool("Rename", () => rename(conversation, row)),
      tool("Export", () => exportFile([conversation], titleOf(conversation))),
      tool("Delete", () => removeConversation(conversation))));
  }
  return row;
}

/* A name that is being typed is left alone; whatever has the focus keeps it. */
function showList() {
  const list = byId("conversations"), active = document.activeElement;
  if (list.querySelector("input"))
    return;
  const held = list.contains(active) ? [active.closest("li").dataset.id, active.textContent] : null;
  list.replaceChildren(...sorted().filter((conversation) => !store.isEmpty(conversation)).map(listRow));
  for (const button of held ? list.querySelectorAll("button") : [])
    if (button.closest("li").dataset.id === held[0] && button.textContent === held[1])
      button.focus();
  byId("export-all").disabled = ![...all.values()].some((c) => c.messages.length);
}

/* ---------------------------------------------------------------- the thread ---------------- */

function showAll() {
  const run = runs.get(current.id) || null;
  setText(byId("title"), titleOf(current));
  document.title = current.title ? `${current.title} – Pregate` : "Pregate";
  byId("welcome").hidden = current.messages.length > 0;
  thread.show(current, run);
  showList();
  showControls();
}

function showControls() {
  const busy = runs.has(current.id);
  byId("send").hidden = busy;
  byId("stop").hidden = !busy;
}

function atEnd() {
  const box = byId("scroll");
  return box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END;
}

function keepEnd(act) {
  const follow = atEnd();
  act();
  if (follow)
    byId("scroll").scrollTop = byId("scroll").scrollHeight;
  byId("to-end").hidden = atEnd();
}

/* ---------------------------------------------------------------- answers ------------------- */

/* At most one picture a while, however fast tokens come; hidden pages get no frames and need none. */
function painter(run) {
  let due = false, painted = 0, saved = performance.now();
  const paint = () => {
    due = false;
    painted = performance.now();
    if (runs.get(run.conversation.id) === run && run.conversation === current)
      keepEnd(() => thread.update(run));
  };
  return () => {
    const now = performance.now();
    if (now - saved > SAVE_MS) {
      saved = now;
      save(run.conversation);
    }
    if (!due) {
      due = true;
      setTimeout(() => requestAnimationFrame(paint), Math.max(SHOW_MS - (now - painted), 0));
    }
  };
}

/* Says once why an answer has to wait. */
function teller(run, changed) {
  let told = null;
  return () => {
    if (run.waiting && run.waiting !== told)
      say(run.waiting.why);
    told = run.waiting;
    changed();
  };
}

async function run(conversation) {
  if (runs.has(conversation.id))
    return;
  const message = { role: "assistant", content: "" };
  conversation.messages.push(message);
  const now = startRun(conversation, message);
  runs.set(conversation.id, now);
  save(conversation);
  if (conversation === current)
    showAll();
  byId("scroll").scrollTop = byId("scroll").scrollHeight;
  const changed = teller(now, painter(now));
  const ticks = setInterval(() => now.waiting && changed(), 500); /* the seconds of a wait */
  const error = await answer(now, settings, changed);
  clearInterval(ticks);
  finish(now, error);
}

function finish(now, error) {
  const { conversation, message } = now;
  runs.delete(conversation.id);
  if (error)
    errorKinds.set(message, error.kind);
  if (message.end === "stopped" && !message.content && !message.reasoning)
    conversation.messages = conversation.messages.filter((m) => m !== message);
  if (all.has(conversation.id))
    save(conversation);
  if (conversation === current)
    keepEnd(showAll);
  else
    showList();
  if (error && (error.kind === "network" || error.kind === "key"))
    greet();
  const tokens = message.stats && message.stats.tokens;
  say(error ? error.message : message.end === "stopped" ? "The answer was stopped."
    : `The answer is complete${tokens ? `, ${count(tokens)} tokens` : ""}.`);
}

function sendMessage() {
  const box = byId("entry"), text = box.value;
  if (!text.trim() || runs.has(current.id) || !dialog.areGood())
    return;
  box.value = "";
  fit(box);
  if (document.activeElement === byId("send")) /* which goes away */
    box.focus();
  current.messages.push({ role: "user", content: text });
  nameByText(current);
  run(current);
}

/* Drops what came after; the dropped can be had back. */
function cut(from, messages) {
  const conversation = current, before = conversation.messages, n = before.length - from - messages.length;
  conversation.messages = [...before.slice(0, from), ...messages];
  if (n > 0)
    toast(n === 1 ? "One later message was dropped." : `${n} later messages were dropped.`, { name: "Undo", act: () => {
      const now = runs.get(conversation.id);
      if (now)
        now.stop();
      conversation.messages = before;
      save(conversation);
      showAll();
    } });
}

/* An answer is given anew; so is the one to a question. */
function retry(message) {
  const at = current.messages.indexOf(message);
  if (at < 0 || runs.has(current.id) || !dialog.areGood())
    return;
  const keep = message.role === "user" ? at + 1 : at;
  if (message.role === "assistant" && at === current.messages.length - 1)
    current.messages.length = keep;
  else
    cut(keep, []);
  byId("entry").focus();
  run(current);
}

function edit(message, text) {
  const at = current.messages.indexOf(message);
  if (at < 0 || runs.has(current.id) || !text.trim())
    return;
  if (message.role === "assistant") {
    current.messages[at] = { ...message, content: text };
    delete current.messages[at].error;
    save(current);
    showAll();
    return;
  }
  cut(at, [{ ...message, content: text }]);
  nameByText(current);
  byId("entry").focus();
  run(current);
}

/* A question goes with its answer: templates want them in turns. */
function remove(message) {
  const conversation = current, before = conversation.messages, at = before.indexOf(message);
  if (at < 0 || runs.has(conversation.id))
    return;
  const next = before[at + 1];
  const n = message.role === "user" && next && next.role === "assistant" ? 2 : 1;
  conversation.messages = [...before.slice(0, at), ...before.slice(at + n)];
  save(conversation);
  showAll();
  byId("entry").focus();
  toast(n === 2 ? "The message and its answer are deleted." : "The message is deleted.", { name: "Undo", act: () => {
    conversation.messages = before;
    save(conversation);
    showAll();
  } });
}

function remedies(message) {
  const list = [];
  if (errorKinds.get(message) === "key")
    list.push(["Enter the API key", () => dialog.open("s-key")]);
  if (message === current.messages[current.messages.length - 1])
    list.push(["Try again", () => retry(message)]);
  return list;
}

/* ---------------------------------------------------------------- files --------------------- */

function exportFile(conversations, name) {
  const blob = new Blob([store.exportText(conversations)], { type: "application/json" });
  const link = el("a", { href: URL.createObjectURL(blob),
    download: `${name.replace(/[^\p{L}\p{N} _-]/gu, "").trim().slice(0, 60) || "conversation"}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function importFile(file) {
  try {
    if (file.size > LARGEST_FILE)
      throw new Error("The file is too large.");
    const conversations = store.importText(await file.text());
    for (const conversation of conversations) {
      all.set(conversation.id, conversation);
      save(conversation, false);
    }
    if (conversations.length)
      open(conversations[0]);
    toast(`Taken in from the file: ${count(conversations.length)}.`);
  } catch (error) {
    toast(error.message);
  }
}

/* ---------------------------------------------------------------- the server ---------------- */

/* Who answers here? Asked again until somebody does. */
async function greet(failures = 0) {
  const mine = ++greeting;
  let wait = 0, text, kind;
  try {
    const { data } = await getJson("v1/models");
    const model = data[0], context = model.meta && model.meta.n_ctx;
    text = model.id + (context ? ` · ${count(context)} tokens of context` : "");
    kind = "ready";
    setText(byId("welcome-text"), `${model.id} answers. Conversations stay in this browser.`);
  } catch (error) {
    kind = error.kind === "busy" ? "busy" : "gone";
    text = error.message || "The server's answer is not understood.";
    wait = error.kind === "key" ? 0 : error.retryAfter || Math.min(2 ** failures, 15);
  }
  if (mine !== greeting)
    return;
  setText(byId("model-name"), text);
  byId("model").title = text;
  byId("model-dot").className = `dot ${kind}`;
  if (kind === "ready")
    picture.again();
  if (wait)
    setTimeout(() => mine === greeting && greet(failures + 1), 1000 * wait);
}

/* ---------------------------------------------------------------- keys, start --------------- */

function onKey(event) {
  if (event.ctrlKey && event.shiftKey && event.code === "KeyO") {
    event.preventDefault();
    dialog.close();
    begin();
  } else if (event.key === "Escape" && !dialog.isOpen && !event.defaultPrevented) {
    if (panels.drawer)
      panels.closeDrawer();
    else if (runs.has(current.id))
      runs.get(current.id).stop();
  }
}

function setUpComposer() {
  const box = byId("entry");
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    sendMessage();
  });
  box.addEventListener("input", () => fit(box));
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      sendMessage();
    }
  });
  byId("stop").addEventListener("click", () => {
    runs.get(current.id).stop();
    box.focus();
  });
}

function setUp() {
  byId("new").addEventListener("click", begin);
  byId("import").addEventListener("click", () => byId("import-file").click());
  byId("export-all").addEventListener("click", () =>
    exportFile(sorted().filter((c) => c.messages.length), "pregate conversations"));
  byId("import-file").addEventListener("change", (event) => {
    if (event.target.files[0])
      importFile(event.target.files[0]);
    event.target.value = "";
  });
  byId("scroll").addEventListener("scroll", () => { byId("to-end").hidden = atEnd(); }, { passive: true });
  byId("to-end").addEventListener("click", () => { byId("scroll").scrollTop = byId("scroll").scrollHeight; });
  document.addEventListener("keydown", onKey);
  window.addEventListener("pagehide", () => {
    for (const now of runs.values())
      save(now.conversation);
  });
  window.addEventListener("online", () => greet());
  store.onOtherTab((id, conversation) => {
    if (runs.has(id))
      return;
    if (conversation)
      all.set(id, conversation);
    else
      all.delete(id);
    if (id === current.id)
      open(conversation || store.newConversation());
    else
      showList();
  });
}

/* An answer that was coming when the page was left. */
function closeOpenAnswers(conversation) {
  for (const message of conversation.messages)
    if (message.role === "assistant" && !message.end && !message.error)
      message.end = "stopped";
  conversation.messages = conversation.messages.filter((m) => m.role === "user" || m.content || m.reasoning || m.error);
}

for (const conversation of store.loadConversations()) {
  closeOpenAnswers(conversation);
  all.set(conversation.id, conversation);
}
setUp();
setUpComposer();
open(all.get(settings.current) || current);
greet();
if (matchMedia("(hover: hover)").matches) /* not where it calls up a keyboard over half of the page */
  byId("entry").focus();
