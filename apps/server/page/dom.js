/* SPDX-License-Identifier: MIT
 * Elements, icons, numbers in words. Text goes into the page as text nodes alone.
 */

export const byId = (id) => document.getElementById(id);

/* el("button", {class: "icon", onclick: f}, "text", node, [nodes]): names that begin with "on" are events. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on"))
      node.addEventListener(name.slice(2), value);
    else if (value === true)
      node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined)
      node.setAttribute(name, value);
  }
  for (const child of children.flat()) /* one by one: there may be more than a call takes */
    if (child !== null && child !== undefined)
      node.append(child);
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

export function setIcon(button, name) {
  button.querySelector("use").setAttribute("href", `#i-${name}`);
}

/* Writes only what changes: a screen reader and the layout are spared the rest. */
export function setText(node, text) {
  if (node.textContent !== text)
    node.textContent = text;
}

/* For screen readers; the same sentence twice is still said twice. */
export function say(text) {
  const node = byId("say");
  node.textContent = "";
  setTimeout(() => { node.textContent = text; }, 50);
}

/* A note at the bottom that leaves by itself, with at most one thing to do about it. */
export function toast(text, action = null, seconds = 8) {
  const node = el("div", { class: "toast" }, el("span", {}, text));
  const close = () => node.remove();
  if (action)
    node.append(el("button", { type: "button", class: "text", onclick: () => {
      close();
      action.act();
    } }, action.name));
  byId("toasts").append(node);
  while (byId("toasts").children.length > 3)
    byId("toasts").firstChild.remove();
  setTimeout(close, seconds * 1000);
}

/* Pages that come over plain HTTP from another machine have no clipboard; the old way still works. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { class: "sr-only", "aria-hidden": "true" });
    const before = document.activeElement;
    area.value = text;
    document.body.append(area);
    area.select();
    let good = false;
    try { good = document.execCommand("copy"); } catch { /* told by good */ }
    area.remove();
    if (before)
      before.focus();
    return good;
  }
}

/* A button that copies what text() gives when it is pressed, and says so on itself. */
export function copyButton(text, label) {
  const button = el("button", { type: "button", class: "icon", "aria-label": label, title: label }, icon("copy"));
  button.addEventListener("click", async () => {
    const good = await copyText(text());
    setIcon(button, good ? "done" : "close");
    say(good ? "Copied" : "This browser does not let the page copy");
    setTimeout(() => setIcon(button, "copy"), 1500);
  });
  return button;
}

/* ---------------------------------------------------------------- numbers ------------------- */

export const isNumber = (x) => typeof x === "number" && Number.isFinite(x);

export function count(n) {
  return Math.round(n).toLocaleString("en-US");
}

/* Three digits that count: 0.482, 4.82, 48.2, 482. */
export function short(x) {
  const digits = x >= 100 ? 0 : x >= 10 ? 1 : 2;
  return x.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) {
    n /= 1024;
    i++;
  }
  return `${i === 0 ? Math.round(n) : short(n)} ${units[i]}`;
}

export function percent(x) {
  return `${(100 * x).toFixed(x > 0 && x < 0.9995 ? 1 : 0)} %`;
}

export function seconds(s) {
  return s < 60 ? `${s.toFixed(s < 1 ? 2 : 1)} s` : `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
}
