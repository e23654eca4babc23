/* SPDX-License-Identifier: MIT
 * The live picture beside the conversation: where the experts are, what reading them costs, who has the memory.
 * The server's stream is open only while somebody can see it.
 */
import { getEvents } from "./api.js";
import { byId, bytes, count, el, isNumber, percent, say, setText, short } from "./dom.js";
import { Grid } from "./grid.js";

const SILENT_MS = 10000;   /* the server sends five a second: it is gone */
const SUMMARY_MS = 4000;   /* between summaries for screen readers */
const AVERAGED = 25;       /* pictures: five seconds */

const PARTS = [["dense", "Dense"], ["kv", "Contexts"], ["scratch", "Scratch"], ["overhead", "Process"],
               ["server", "Server"], ["slots", "Slots"]];

/* ---------------------------------------------------------------- rates --------------------- */

/* Means over the last seconds in which something was computed. When all is quiet they stay as they were. */
class Rates {
  constructor() {
    this.all = [];
  }

  add(picture, anyUsed) {
    const active = picture.running > 0 || picture.tok_s > 0 || anyUsed;
    if (active) {
      if (!this.active)
        this.all = []; /* the first after a quiet time is mostly of that time */
      else
        this.all.push({ ...picture, anyUsed });
      this.all = this.all.slice(-AVERAGED);
    }
    this.active = active;
  }

  mean(of, weight = () => 1) {
    let sum = 0, all = 0;
    this.all.forEach((picture, i) => {
      const w = weight(picture, i);
      sum += w * of(picture);
      all += w;
    });
    return all > 0 ? sum / all : null;
  }

  /* From the first token on: before it, prompts are read. */
  get speed() {
    const first = this.all.findIndex((p) => p.tok_s > 0);
    return first < 0 ? null : this.mean((p) => p.tok_s, (p, i) => (i >= first ? 1 : 0));
  }

  get hits() {
    return this.mean((p) => p.hits, (p) => (p.anyUsed ? 1 : 0));
  }

  get stall() {
    return this.mean((p) => p.stall, (p) => (p.anyUsed ? 1 : 0));
  }

  get bytes() {
    return this.mean((p) => p.bytes_per_token, (p) => p.tok_s);
  }
}

/* ---------------------------------------------------------------- memory -------------------- */

class Memory {
  constructor() {
    this.bar = byId("memory-bar");
    this.list = byId("memory-parts");
    this.rows = new Map();
    for (const [name, title] of PARTS) {
      const segment = el("span", { class: `segment m-${name}` }), size = el("b", {});
      const row = el("li", {}, el("i", { class: `swatch m-${name}` }), title, " ", size);
      this.rows.set(name, { segment, size, row });
      this.bar.append(segment);
      this.list.append(row);
    }
    this.peak = el("span", { class: "peak" });
    this.bar.append(this.peak);
  }

  show(memory) {
    const { budget, peak, parts } = memory;
    if (!isNumber(budget) || !parts || typeof parts !== "object")
      return;
    const sum = PARTS.reduce((all, [name]) => all + (isNumber(parts[name]) ? parts[name] : 0), 0);
    const whole = Math.max(budget, sum, isNumber(peak) ? peak : 0, 1);
    for (const [name] of PARTS) {
      const { segment, size, row } = this.rows.get(name);
      const n = isNumber(parts[name]) ? parts[name] : 0;
      row.hidden = segment.hidden = n <= 0;
      segment.style.width = `${(100 * n) / whole}%`;
      setText(size, bytes(n));
    }
    this.peak.hidden = !isNumber(peak);
    this.peak.style.left = `${(100 * (peak || 0)) / whole}%`;
    const over = isNumber(peak) && peak > budget;
    byId("memory-text").classList.toggle("wrong", over);
    setText(byId("memory-text"), `Budget ${bytes(budget)}` +
      (isNumber(peak) ? `; most in use ${bytes(peak)}, ${percent(peak / budget)}${over ? ": over it" : ""}` : ""));
  }
}

/* How many requests there are. */
function busyText({ running, waiting }) {
  if (!(running > 0))
    return "idle";
  return `${count(running)} running${waiting > 0 ? `, ${count(waiting)} waiting` : ""}`;
}

/* ---------------------------------------------------------------- the panel ----------------- */

export class Picture {
  constructor() {
    this.panel = byId("picture");
    this.rates = new Rates();
    this.memory = new Memory();
    this.grid = new Grid(byId("grid"), byId("readout"), {
      slot: byId("c-slot"), used: byId("c-used"), arriving: byId("c-arriving"), disk: byId("c-disk") });
    this.grid.onKey = say;
    this.controller = null;
    this.wake = () => {};
    this.summarized = -Infinity;
    this.inView = false;
    new IntersectionObserver((entries) => {
      this.inView = entries[entries.length - 1].isIntersecting;
      this.watch();
    }).observe(this.panel);
    document.addEventListener("visibilitychange", () => this.watch());
  }

  recolor() {
    this.grid.readColors();
  }

  /* Opens or closes the stream, as it is seen or not. */
  watch() {
    const wanted = this.inView && !document.hidden;
    if (wanted && !this.controller) {
      this.controller = new AbortController();
      this.follow(this.controller);
    } else if (!wanted && this.controller) {
      this.controller.abort();
      this.controller = null;
      this.wake();
    }
  }

  /* The server may be there again, or the key may be another. */
  again() {
    this.wake();
  }

  async follow(controller) {
    for (let failures = 0; !controller.signal.aborted; failures++) {
      const started = performance.now();
      const error = await this.read(controller);
      if (controller.signal.aborted)
        return;
      if (performance.now() - started > SILENT_MS)
        failures = 0;
      this.setState(error && error.kind === "key" ? "needs the API key" : "not live");
      await new Promise((resolve) => {
        const wait = Math.max((error && error.retryAfter) || 0, Math.min(2 ** failures, 15));
        const timer = setTimeout(resolve, 1000 * wait);
        this.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /* Until the stream ends; the error that ended it. */
  async read(controller) {
    const silent = new AbortController();
    let timer = 0;
    const listen = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silent.abort(), SILENT_MS);
    };
    controller.signal.addEventListener("abort", () => silent.abort());
    try {
      listen();
      for await (const data of getEvents("experts/stream", silent.signal)) {
        listen();
        this.show(JSON.parse(data));
      }
      return null;
    } catch (error) {
      return error;
    } finally {
      clearTimeout(timer);
    }
  }

  setState(text) {
    setText(byId("picture-state"), text);
    this.panel.classList.toggle("stale", text === "not live" || text === "needs the API key");
  }

  show(picture) {
    if (!picture || typeof picture !== "object")
      return;
    const state = typeof picture.state === "string" ? picture.state : "";
    const where = this.grid.show(picture.n_layer, picture.n_expert, state);
    this.rates.add(picture, Boolean(where && where.used));
    this.showWhere(where, picture);
    this.showNumbers(Boolean(where));
    if (picture.memory && typeof picture.memory === "object")
      this.memory.show(picture.memory);
    this.setState(busyText(picture));
    this.summarize(where, picture);
  }

  showWhere(where, picture) {
    byId("grid-box").hidden = byId("readout").hidden = !where;
    byId("experts").querySelector(".legend").hidden = !where;
    if (!where) {
      setText(byId("experts-text"), "This model has no experts: all of it is in memory all the time.");
      return;
    }
    const all = picture.n_layer * picture.n_expert;
    for (const name of ["slot", "used", "arriving", "disk"])
      setText(byId(`count-${name}`), count(where[name]));
    setText(byId("experts-text"), picture.slots >= all ? `All ${count(all)} experts have a slot: none is read again.`
      : `${count(all)} experts, and slots for ${count(picture.slots)} of them.`);
  }

  showNumbers(hasExperts) {
    const { speed, hits, bytes: read, stall } = this.rates;
    const set = (id, value, text) => setText(byId(id), value === null ? "–" : text(value));
    set("n-speed", speed, (x) => `${short(x)} tok/s`);
    set("n-hits", hasExperts ? hits : null, percent);
    set("n-bytes", hasExperts ? read : null, bytes);
    set("n-stall", hasExperts ? stall : null, percent);
    byId("numbers").classList.toggle("quiet", !this.rates.active);
  }

  /* The picture in words; not oftener than one can listen. */
  summarize(where, picture) {
    const now = performance.now();
    if (!where || now - this.summarized < SUMMARY_MS)
      return;
    this.summarized = now;
    byId("grid").setAttribute("aria-label", `${count(picture.n_layer)} blocks of ${count(picture.n_expert)} experts: ` +
      `${count(where.slot)} in a slot, ${count(where.arriving)} arriving, ${count(where.disk)} on disk, ` +
      `${count(where.used)} used just now`);
  }
}
