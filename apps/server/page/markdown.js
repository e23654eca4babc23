/* SPDX-License-Identifier: MIT
 * Markdown as models write it: headings, lists, quotes, tables, code, emphasis, links. Everything becomes elements made
 * here with text nodes in them, so HTML in an answer is text. What is not understood is shown as it stands. All scans
 * are bounded, because the text is a stranger's.
 */
import { copyButton, el } from "./dom.js";

const DEEPEST = 8;      /* lists in quotes in lists … */
const FARTHEST = 2000;  /* characters from an opening mark to its end */
const MOST_ENDS = 40;   /* marks that are looked at as its end */

/* ---------------------------------------------------------------- inline -------------------- */

const WORD = /[\p{L}\p{N}]/u;

/* Only what a browser opens as a page; null for the rest. */
function safeUrl(text) {
  if (!/^https?:\/\//i.test(text) || text.length > 4000)
    return null;
  try {
    const url = new URL(text);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

function link(url, children) {
  return el("a", { href: url, title: url, target: "_blank", rel: "noopener noreferrer nofollow" }, children);
}

/* Where `mark` stands from `from` on, or -1 if that is too far. */
function find(text, mark, from) {
  const at = text.slice(from, from + FARTHEST).indexOf(mark);
  return at < 0 ? -1 : from + at;
}

/* `code`, ``co`de``: as many marks at the end as at the beginning. */
function codeAt(text, at) {
  let n = 1;
  while (text[at + n] === "`")
    n++;
  const marks = "`".repeat(n);
  let end = find(text, marks, at + n);
  while (end >= 0 && text[end + n] === "`") {
    while (text[end] === "`")
      end++;
    end = find(text, marks, end);
  }
  if (end < 0)
    return { node: marks, end: at + n };
  const inner = text.slice(at + n, end);
  const trimmed = inner.startsWith(" ") && inner.endsWith(" ") && inner.trim() ? inner.slice(1, -1) : inner;
  return { node: el("code", {}, trimmed), end: end + n };
}

/* [text](http://…). A picture's ! before it makes no picture: nothing is loaded from elsewhere. */
function linkAt(text, at, depth) {
  const middle = find(text, "](", at + 1);
  if (middle < 0)
    return null;
  let end = middle + 2, open = 1;
  for (; end < text.length && end < middle + FARTHEST; end++) {
    if (text[end] === "(")
      open++;
    else if (text[end] === ")" && --open === 0)
      break;
  }
  const url = open === 0 ? safeUrl(text.slice(middle + 2, end).trim().split(/\s/)[0]) : null;
  const label = text.slice(at + 1, middle);
  if (!url || label.includes("\n\n") || label.includes("["))
    return null;
  return { node: link(url, inline(label, depth + 1)), end: end + 1 };
}

/* A bare address, without the full stop that ends its sentence. */
function urlAt(text, at) {
  const found = /^https?:\/\/[^\s<>"'`]+/i.exec(text.slice(at, at + FARTHEST));
  let address = found ? found[0] : "";
  while (/[.,;:!?*_~\]]$/.test(address) || (address.endsWith(")") && !address.includes("(")))
    address = address.slice(0, -1);
  const url = address && safeUrl(address);
  return url ? { node: link(url, [address]), end: at + address.length } : null;
}

const EMPHASIS = [["***", "strong"], ["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];

/* Where the emphasis that has begun ends: not after a space, not within a word for "_", not in a longer mark. */
function emphasisEnd(text, mark, from) {
  let end = find(text, mark, from);
  for (let left = MOST_ENDS; end >= 0 && left > 0; left--) {
    const longer = text[end + mark.length] === mark[0];
    const inWord = mark[0] === "_" && WORD.test(text[end + mark.length] || "");
    if (!/\s/.test(text[end - 1]) && !inWord && !(longer && mark.length === 1))
      return end;
    end = find(text, mark, end + (longer ? 2 : mark.length));
  }
  return -1;
}

function emphasisAt(text, at, depth) {
  for (const [mark, tag] of EMPHASIS) {
    if (!text.startsWith(mark, at))
      continue;
    const from = at + mark.length;
    const inWord = mark[0] === "_" && at > 0 && WORD.test(text[at - 1]);
    if (inWord || !text[from] || /\s/.test(text[from]) || text[from] === mark[0])
      return null;
    const end = emphasisEnd(text, mark, from);
    if (end <= from)
      return null;
    const children = inline(text.slice(from, end), depth + 1);
    const node = mark === "***" ? el("strong", {}, el("em", {}, children)) : el(tag, {}, children);
    return { node, end: end + mark.length };
  }
  return null;
}

/* Nodes and strings. */
function inline(text, depth = 0) {
  if (depth > DEEPEST)
    return [text];
  const out = [], marks = /[`*_~[\\\n]|https?:\/\//gi;
  let plain = 0;
  for (let found = marks.exec(text); found; found = marks.exec(text)) {
    const at = found.index, mark = found[0];
    let piece = null;
    if (mark === "\\")
      piece = /[!-/:-@[-`{-~]/.test(text[at + 1] || "") ? { node: text[at + 1], end: at + 2 } : null;
    else if (mark === "\n")
      piece = { node: el("br"), end: at + 1 };
    else if (mark === "`")
      piece = codeAt(text, at);
    else if (mark === "[")
      piece = linkAt(text, at, depth);
    else if (mark.length > 1)
      piece = at > 0 && WORD.test(text[at - 1]) ? null : urlAt(text, at);
    else
      piece = emphasisAt(text, at, depth);
    if (piece) {
      out.push(text.slice(plain, at), piece.node);
      plain = piece.end;
    } else { /* past all marks of the same kind: what does not open with four does not open with three */
      while (text[marks.lastIndex] === mark && mark !== "[")
        marks.lastIndex++;
    }
    marks.lastIndex = Math.max(marks.lastIndex, plain);
  }
  out.push(text.slice(plain));
  return out;
}

/* ---------------------------------------------------------------- blocks -------------------- */

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;
const TABLE_RULE = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

const isBlank = (line) => line.trim() === "";
const indentOf = (line) => line.length - line.trimStart().length;
const isTable = (lines, i) => lines[i].includes("|") && i + 1 < lines.length && lines[i + 1].includes("-") &&
  lines[i + 1].includes("|") && TABLE_RULE.test(lines[i + 1]);

function startsBlock(lines, i) {
  const line = lines[i];
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line) ||
    isTable(lines, i);
}

/* The line after the block that begins at i, and its kind. Lines alone decide, so this is quick enough to be done
 * anew for each piece of an answer that comes. */
function blockAt(lines, i) {
  const fence = FENCE.exec(lines[i]);
  let end = i + 1;
  if (fence) {
    const close = new RegExp(`^ {0,3}${fence[1][0]}{${Math.min(fence[1].length, 100)},}\\s*$`);
    while (end < lines.length && !close.test(lines[end]))
      end++;
    return { kind: "code", end: Math.min(end + 1, lines.length) };
  }
  if (HEADING.test(lines[i]))
    return { kind: "heading", end };
  if (RULE.test(lines[i]))
    return { kind: "rule", end };
  if (QUOTE.test(lines[i])) {
    while (end < lines.length && QUOTE.test(lines[end]))
      end++;
    return { kind: "quote", end };
  }
  const item = ITEM.exec(lines[i]);
  if (item)
    return { kind: "list", end: listEnd(lines, i, item) };
  if (isTable(lines, i)) {
    while (end < lines.length && lines[end].includes("|"))
      end++;
    return { kind: "table", end };
  }
  while (end < lines.length && !isBlank(lines[end]) && !startsBlock(lines, end))
    end++;
  return { kind: "text", end };
}

/* A list goes on over blank lines if an item or an indented line follows. */
function listEnd(lines, i, first) {
  let end = i + 1, fence = null;
  for (; end < lines.length; end++) {
    const line = lines[end], opens = /^\s*(`{3,}|~{3,})/.exec(line);
    if (fence ? line.trim().startsWith(fence) : opens)
      fence = fence ? null : opens[1];
    if (fence || indentOf(line) > first[1].length || (ITEM.test(line) && sameList(first, ITEM.exec(line))))
      continue;
    if (isBlank(line)) {
      let next = end + 1;
      while (next < lines.length && isBlank(lines[next]))
        next++;
      const item = next < lines.length ? ITEM.exec(lines[next]) : null;
      if (next < lines.length && (indentOf(lines[next]) > first[1].length || (item && sameList(first, item)))) {
        end = next - 1;
        continue;
      }
      break;
    }
    if (startsBlock(lines, end) || isBlank(lines[end - 1]))
      break; /* otherwise a lazy line of the item's paragraph */
  }
  return end;
}

const isOrdered = (item) => /\d/.test(item[2]);
const sameList = (a, b) => isOrdered(a) === isOrdered(b) && b[1].length <= a[1].length + 1;

function codeBlock(lines) {
  const fence = FENCE.exec(lines[0]);
  const language = fence[2].trim().split(/\s/)[0].slice(0, 30);
  const last = lines[lines.length - 1].trim();
  const closed = lines.length > 1 && last.startsWith(fence[1]) && last === fence[1][0].repeat(last.length);
  const code = lines.slice(1, closed ? -1 : undefined).join("\n");
  return el("figure", { class: "code" },
    el("figcaption", {}, el("span", {}, language), copyButton(() => code, "Copy this code")),
    el("pre", { tabindex: "0", "aria-label": language ? `Code, ${language}` : "Code" }, el("code", {}, code)));
}

function list(lines, depth) {
  const first = ITEM.exec(lines[0]);
  const node = el(isOrdered(first) ? "ol" : "ul");
  if (isOrdered(first) && parseInt(first[2], 10) !== 1)
    node.setAttribute("start", parseInt(first[2], 10));
  for (let i = 0; i < lines.length;) {
    const item = ITEM.exec(lines[i]) || ["", "", "", ""];
    const inner = [lines[i].slice(item[0].length)];
    const width = item[0].length;
    let end = i + 1;
    for (; end < lines.length; end++) {
      const next = ITEM.exec(lines[end]);
      if (next && next[1].length < Math.max(width - 1, 1) && next[1].length <= first[1].length + 1)
        break;
      inner.push(lines[end].slice(Math.min(indentOf(lines[end]), width)));
    }
    node.append(listItem(inner, depth));
    i = end;
  }
  return node;
}

/* An item of one paragraph has no paragraph of its own, so that the list is close. */
function listItem(lines, depth) {
  const node = el("li", {}, blocks(lines, depth + 1));
  const first = node.firstElementChild;
  if (first && first.tagName === "P" && !lines.some(isBlank)) {
    while (first.firstChild)
      node.insertBefore(first.firstChild, first);
    first.remove();
  }
  return node;
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return inner.split(/(?<!\\)\|/).slice(0, 100).map((text) => text.trim().replace(/\\\|/g, "|"));
}

function table(lines) {
  const align = cells(lines[1]).map((rule) => (rule.endsWith(":") ? (rule.startsWith(":") ? "mid" : "right") : null));
  const row = (line, tag) => el("tr", {}, cells(line).map((text, i) =>
    el(tag, { class: align[i] || null }, inline(text))));
  return el("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
    el("table", {}, el("thead", {}, row(lines[0], "th")),
      el("tbody", {}, lines.slice(2).map((line) => row(line, "td")))));
}

function blockNode(kind, lines, depth) {
  switch (kind) {
  case "code":
    return codeBlock(lines);
  case "heading": {
    const [, marks, text] = HEADING.exec(lines[0]);
    return el(`h${Math.min(marks.length + 2, 6)}`, {}, inline(text)); /* h1 and h2 are the page's */
  }
  case "rule":
    return el("hr");
  case "quote":
    return el("blockquote", {}, blocks(lines.map((line) => line.replace(QUOTE, "")), depth + 1));
  case "list":
    return list(lines, depth);
  case "table":
    return table(lines);
  default:
    return el("p", {}, inline(lines.map((line) => line.trimEnd()).join("\n").trim()));
  }
}

function split(lines) {
  const out = [];
  for (let i = 0; i < lines.length;) {
    if (isBlank(lines[i])) {
      i++;
      continue;
    }
    const { kind, end } = blockAt(lines, i);
    out.push({ kind, lines: lines.slice(i, end) });
    i = end;
  }
  return out;
}

function blocks(lines, depth) {
  if (depth > DEEPEST)
    return [el("p", {}, lines.join("\n"))];
  return split(lines).map(({ kind, lines: own }) => blockNode(kind, own, depth));
}

/* Shows a text that grows. Blocks that are as they were stay, with what is selected or focused in them. */
export class MarkdownView {
  constructor(root) {
    this.root = root;
    this.shown = [];
  }

  show(text) {
    const wanted = split(text.replace(/\t/g, "    ").split(/\r?\n/));
    let same = 0;
    const key = ({ kind, lines }) => `${kind}\n${lines.join("\n")}`;
    const keys = wanted.map(key);
    while (same < keys.length && same < this.shown.length && keys[same] === this.shown[same])
      same++;
    while (this.root.childNodes.length > same)
      this.root.lastChild.remove();
    for (const { kind, lines } of wanted.slice(same))
      this.root.append(blockNode(kind, lines, 0));
    this.shown = keys;
  }
}
