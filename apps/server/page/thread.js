/* SPDX-License-Identifier: MIT
 * The messages of a conversation on the page.
 */
import { copyButton, count, el, icon, seconds, setText, short } from "./dom.js";
import { MarkdownView } from "./markdown.js";

function iconButton(name, label, act) {
  return el("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick: act }, icon(name));
}

function textButton(text, act) {
  return el("button", { type: "button", class: "text", onclick: act }, text);
}

/* What an answer took, in a line. */
function statsText({ stats, end }) {
  const said = [];
  if (end === "length")
    said.push("ended: no more tokens were allowed");
  if (end === "stopped")
    said.push("stopped");
  if (stats && stats.tokens !== undefined)
    said.push(`${count(stats.tokens)} tokens`);
  if (stats && stats.rate)
    said.push(`${short(stats.rate)} tok/s`);
  if (stats && stats.first !== undefined)
    said.push(`first after ${seconds(stats.first)}`);
  if (stats && stats.prompt !== undefined)
    said.push(`prompt ${count(stats.prompt)}${stats.cached ? `, ${count(stats.cached)} of it from the cache` : ""}`);
  return said.join(" · ");
}

class MessageView {
  constructor(thread, message) {
    this.thread = thread;
    this.message = message;
    const mine = message.role === "user";
    this.body = el("div", { class: mine ? "bubble" : "prose" });
    this.node = el("li", { class: `message ${message.role}` },
      el("h3", { class: "sr-only" }, mine ? "You" : "The model"));
    if (mine)
      this.body.textContent = message.content;
    else
      this.makeAnswer();
    this.actions = this.makeActions();
    this.node.append(this.body, ...(mine ? [] : [this.live, this.stats]), this.actions);
  }

  makeAnswer() {
    this.view = new MarkdownView(this.body);
    this.summary = el("summary", {});
    this.thoughts = el("div", { class: "thoughts prose" });
    this.thoughtView = new MarkdownView(this.thoughts);
    this.reasoning = el("details", { class: "reasoning", hidden: true }, this.summary, this.thoughts);
    this.live = el("div", { class: "live" });
    this.stats = el("p", { class: "stats" });
    this.node.append(this.reasoning);
  }

  makeActions() {
    const { message, thread } = this, { act } = thread;
    const what = message.role === "user" ? "message" : "answer";
    const retry = iconButton("retry", message.role === "user" ? "Answer this message" : "Answer again",
      () => act.retry(message));
    retry.classList.add("retry");
    return el("div", { class: "actions" },
      copyButton(() => message.content, `Copy this ${what}`),
      iconButton("edit", `Edit this ${what}`, () => this.edit()),
      retry,
      iconButton("delete", `Delete this ${what}`, () => act.remove(message)));
  }

  /* The text becomes a box; saving a question drops what came after it. */
  edit() {
    if (this.editor || this.thread.isRunning())
      return;
    const { message, thread } = this, mine = message.role === "user";
    const box = el("textarea", { "aria-label": `Edit this ${mine ? "message" : "answer"}`, rows: "3" });
    const close = () => {
      this.editor.remove();
      this.editor = null;
      this.node.classList.remove("editing");
      this.actions.querySelector("button:nth-child(2)").focus();
    };
    const save = () => {
      close();
      thread.act.edit(message, box.value);
    };
    box.value = message.content;
    box.addEventListener("input", () => fit(box));
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape" || (event.key === "Enter" && !event.shiftKey && !event.isComposing && mine)) {
        event.preventDefault();
        event.stopPropagation();
        (event.key === "Escape" ? close : save)();
      }
    });
    this.editor = el("div", { class: "editor" }, box,
      el("div", { class: "row" }, textButton("Cancel", close),
        el("button", { type: "button", class: "primary", onclick: save }, mine ? "Send" : "Save")));
    this.node.append(this.editor);
    this.node.classList.add("editing");
    fit(box);
    box.focus();
  }

  /* run: of this message, or null when nothing is going on. */
  update(run) {
    if (this.message.role === "user")
      return;
    const { message } = this;
    this.view.show(message.content);
    this.updateReasoning(run);
    this.updateLive(run);
    this.node.classList.toggle("running", Boolean(run));
    this.node.classList.toggle("empty", !message.content);
    setText(this.stats, run ? "" : statsText(message));
  }

  updateReasoning(run) {
    const { reasoning, content, stats } = this.message;
    this.reasoning.hidden = !reasoning;
    if (!reasoning)
      return;
    const thinks = run && !content;
    const took = stats && stats.thought !== undefined ? ` for ${seconds(stats.thought)}` : "";
    setText(this.summary, thinks ? "Thinking" : `Thought${took}`);
    this.thoughtView.show(reasoning);
  }

  /* Below the text: what the reader waits for, or what went wrong. */
  updateLive(run) {
    const kind = run ? (run.waiting ? "waiting" : run.progress ? "progress" : run.first === null ? "begin" : "")
      : this.message.error ? "error" : "";
    if (this.liveKind !== kind || kind === "error") {
      this.liveKind = kind;
      this.live.replaceChildren(...this.makeLive(kind, run));
    }
    if (kind === "progress")
      this.showProgress(run.progress);
    if (kind === "waiting")
      this.showWaiting(run.waiting);
  }

  makeLive(kind, run) {
    switch (kind) {
    case "begin":
      return [el("p", { class: "pending" }, el("i"), el("i"), el("i"), el("span", { class: "sr-only" }, "Waiting"))];
    case "progress":
      this.bar = el("progress", { "aria-label": "The prompt that is read" });
      this.barText = el("p", { class: "note" });
      return [this.barText, this.bar];
    case "waiting":
      this.waitText = el("span", {});
      return [el("div", { class: "card" }, el("p", {}, this.waitText),
        el("div", { class: "row" }, textButton("Try now", () => run.wake()), textButton("Give up", () => run.stop())))];
    case "error":
      return [el("div", { class: "card error" }, el("p", {}, this.message.error),
        el("div", { class: "row" }, ...this.thread.act.remedies(this.message).map(([name, act]) =>
          textButton(name, act))))];
    default:
      return [];
    }
  }

  showProgress({ done, total, cached }) {
    this.bar.max = total;
    this.bar.value = Math.min(done, total);
    setText(this.barText, `Reading the prompt: ${count(done)} of ${count(total)} tokens` +
      (cached ? `, ${count(cached)} from the cache` : ""));
  }

  showWaiting({ why, until }) {
    const left = Math.max(Math.ceil((until - Date.now()) / 1000), 0);
    setText(this.waitText, `${why} ${left ? `It is tried again in ${left} s.` : "It is tried again now."}`);
  }
}

/* A box as high as its text, within what the style allows. */
export function fit(box) {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + box.offsetHeight - box.clientHeight}px`;
}

/* act: {retry, edit, remove, remedies} of messages. */
export class Thread {
  constructor(list, act) {
    this.list = list;
    this.act = act;
    this.views = new Map();
    this.run = null;
  }

  isRunning() {
    return this.run !== null;
  }

  /* Messages that were shown keep their elements. */
  show(conversation, run) {
    const old = this.views;
    this.run = run;
    this.views = new Map();
    for (const message of conversation.messages) {
      const known = old.get(message);
      this.views.set(message, known && !known.editor ? known : new MessageView(this, message));
    }
    this.place();
    for (const [message, view] of this.views)
      view.update(run && run.message === message ? run : null);
    const last = this.list.lastElementChild;
    for (const node of this.list.children)
      node.classList.toggle("last", node === last);
    this.list.classList.toggle("busy", run !== null);
  }

  /* What is in its place stays untouched, and keeps the focus. */
  place() {
    let next = this.list.firstChild;
    for (const { node } of this.views.values()) {
      if (node === next)
        next = next.nextSibling;
      else
        this.list.insertBefore(node, next);
    }
    while (next) {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    }
  }

  /* Only what is being answered. */
  update(run) {
    const view = this.views.get(run.message);
    if (view)
      view.update(run);
  }
}
