/* SPDX-License-Identifier: MIT
 * Blocks × experts as a grid: a cell's colour says where its expert is, and it is lit when it is used, then fades.
 * A block may take several lines, so that cells are as large as the room allows. The cells are a small image of a
 * pixel each, which is drawn enlarged: 94 × 512 of them cost little.
 */
import { setText } from "./dom.js";

const IN_SLOT = 1, ARRIVING = 2, USED = 4;
const MOST_CELLS = 1 << 20;
const FADE_MS = 900;
const LARGEST = 22; /* of a cell, in CSS pixels */
const GUTTER = 26;  /* for the numbers of the blocks */

const still = matchMedia("(prefers-reduced-motion: reduce)");

/* In device pixels: the fewest lines a block whose cells are nearly as large as they can be. Cells of two pixels may
 * make it higher than wanted. */
export function layout(nBlocks, nExperts, width, height, scale) {
  const all = [], most = LARGEST * scale;
  for (let lines = 1; lines <= nExperts; lines++) {
    const columns = Math.ceil(nExperts / lines);
    if (lines > 1 && columns === Math.ceil(nExperts / (lines - 1)))
      continue;
    const gap = lines > 1 ? Math.ceil(scale) : 0;
    const wide = Math.floor(width / columns), high = Math.floor((height / nBlocks - gap) / lines);
    all.push({ lines, columns, gap, wide, high, side: Math.max(Math.min(wide, Math.max(high, 2), most), 1) });
  }
  const largest = Math.max(...all.map((place) => place.side));
  const { side, wide, high, ...best } = all.find((place) => place.side >= 0.8 * largest);
  const size = (room) => Math.floor(Math.max(Math.min(room, 1.6 * side, most), side));
  best.cellWidth = size(wide);
  best.cellHeight = size(high);
  best.pitch = best.lines * best.cellHeight + best.gap; /* from a block to the next */
  return best;
}

/* "rgb(1, 2, 3)", as computed styles have it. */
function channels(color) {
  return color.match(/[\d.]+/g).slice(0, 3).map(Number);
}

export class Grid {
  /* swatches: elements whose backgrounds are the colours {slot, used, arriving, disk}. */
  constructor(canvas, readout, swatches) {
    this.canvas = canvas;
    this.readout = readout;
    this.swatches = swatches;
    this.image = document.createElement("canvas");
    this.nBlocks = this.nExperts = 0;
    this.at = null; /* the cell that is looked at */
    this.frame = 0;
    this.readColors();
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("pointerdown", (event) => this.point(event));
    canvas.addEventListener("pointerleave", () => this.look(null));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.at === null && canvas.matches(":focus-visible") && this.look(0));
    canvas.addEventListener("blur", () => this.look(null));
    new ResizeObserver(() => this.fit()).observe(canvas.parentElement);
    still.addEventListener("change", () => this.draw());
  }

  readColors() {
    this.colors = {};
    for (const [name, node] of Object.entries(this.swatches))
      this.colors[name] = channels(getComputedStyle(node).backgroundColor);
    this.ink = getComputedStyle(this.canvas).color;
    this.markInk = getComputedStyle(this.readout).color;
    this.draw();
  }

  /* state: a digit an expert; what is missing counts as on disk. Returns how many are where, or null if there is no
   * grid to draw. */
  show(nBlocks, nExperts, state) {
    if (!(nBlocks > 0 && nExperts > 0 && nBlocks * nExperts <= MOST_CELLS))
      return null;
    if (nBlocks !== this.nBlocks || nExperts !== this.nExperts) {
      this.nBlocks = nBlocks;
      this.nExperts = nExperts;
      this.bits = new Uint8Array(nBlocks * nExperts);
      this.heat = new Float32Array(nBlocks * nExperts);
      this.at = null;
      this.fit();
    }
    const n = { slot: 0, arriving: 0, disk: 0, used: 0 };
    for (let i = 0; i < this.bits.length; i++) {
      const bits = i < state.length ? state.charCodeAt(i) & 7 : 0;
      this.bits[i] = bits;
      this.heat[i] = bits & USED ? 1 : still.matches ? 0 : this.heat[i];
      n.used += (bits & USED) >> 2;
      if (bits & ARRIVING)
        n.arriving++;
      else if (bits & IN_SLOT)
        n.slot++;
      else
        n.disk++;
    }
    this.tell();
    this.draw();
    this.run();
    return n;
  }

  /* ---- drawing ---- */

  fit() {
    if (!this.nBlocks)
      return;
    const scale = window.devicePixelRatio || 1;
    const box = this.canvas.parentElement;
    const width = Math.floor((box.clientWidth - GUTTER) * scale);
    if (width <= 0)
      return;
    const height = Math.floor(Math.min(Math.max(window.innerHeight * 0.55, 240), 620) * scale);
    this.place = layout(this.nBlocks, this.nExperts, width, height, scale);
    this.scale = scale;
    this.left = Math.floor(GUTTER * scale);
    this.canvas.width = this.left + this.place.columns * this.place.cellWidth;
    this.canvas.height = this.nBlocks * this.place.pitch;
    this.canvas.style.width = `${this.canvas.width / scale}px`;
    this.canvas.style.height = `${this.canvas.height / scale}px`;
    this.image.width = this.place.columns;
    this.image.height = this.nBlocks * this.place.lines;
    this.pixels = this.image.getContext("2d").createImageData(this.image.width, this.image.height);
    this.draw();
  }

  /* While something fades. */
  run() {
    if (this.frame || still.matches)
      return;
    let before = performance.now();
    const step = (now) => {
      const less = Math.exp((before - now) / FADE_MS);
      let hot = false;
      before = now;
      for (let i = 0; i < this.heat.length; i++) {
        this.heat[i] *= less;
        hot = hot || this.heat[i] > 0.01;
      }
      this.draw();
      this.frame = hot ? requestAnimationFrame(step) : 0;
    };
    this.frame = requestAnimationFrame(step);
  }

  paintCells() {
    const { data, width } = this.pixels, { lines, columns } = this.place, { slot, used, arriving, disk } = this.colors;
    for (let i = 0; i < this.bits.length; i++) {
      const block = Math.floor(i / this.nExperts), expert = i - block * this.nExperts;
      const line = Math.floor(expert / columns);
      const to = 4 * ((block * lines + line) * width + expert - line * columns);
      const bits = this.bits[i], heat = this.heat[i];
      const base = bits & ARRIVING ? arriving : bits & IN_SLOT ? slot : disk;
      for (let k = 0; k < 3; k++)
        data[to + k] = base[k] + heat * (used[k] - base[k]);
      data[to + 3] = 255;
    }
    this.image.getContext("2d").putImageData(this.pixels, 0, 0);
  }

  draw() {
    if (!this.pixels)
      return;
    const { lines, columns, cellWidth, cellHeight, pitch } = this.place;
    const g = this.canvas.getContext("2d");
    this.paintCells();
    g.clearRect(0, 0, this.canvas.width, this.canvas.height);
    g.imageSmoothingEnabled = false;
    for (let b = 0; b < this.nBlocks; b++)
      g.drawImage(this.image, 0, b * lines, columns, lines, this.left, b * pitch,
        columns * cellWidth, lines * cellHeight);
    this.drawGaps(g);
    this.drawNumbers(g);
    if (this.at !== null)
      this.drawMark(g);
  }

  /* Lines between cells that are large enough for it. */
  drawGaps(g) {
    const { lines, columns, cellWidth, cellHeight, pitch } = this.place, side = Math.min(cellWidth, cellHeight);
    const gap = Math.round(side >= 9 * this.scale ? 2 * this.scale : side >= 4 * this.scale ? this.scale : 0);
    if (!gap)
      return;
    for (let x = 1; x <= columns; x++)
      g.clearRect(this.left + x * cellWidth - gap, 0, gap, this.canvas.height);
    for (let b = 0; b < this.nBlocks; b++)
      for (let y = 1; y <= lines; y++)
        g.clearRect(this.left, b * pitch + y * cellHeight - gap, columns * cellWidth, gap);
  }

  drawNumbers(g) {
    const { pitch, lines, cellHeight } = this.place, middle = Math.max((lines * cellHeight) / 2, 6 * this.scale);
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((n) => n * pitch >= 14 * this.scale) || 1000;
    g.fillStyle = this.ink;
    g.font = `${11 * this.scale}px system-ui, sans-serif`;
    g.textAlign = "right";
    g.textBaseline = "middle";
    for (let b = 0; b < this.nBlocks; b += every)
      g.fillText(String(b), this.left - 7 * this.scale, b * pitch + middle);
  }

  /* A frame around the cell, not smaller than can be seen. */
  drawMark(g) {
    const { lines, columns, cellWidth, cellHeight, pitch } = this.place;
    const block = Math.floor(this.at / this.nExperts), expert = this.at % this.nExperts;
    const line = Math.floor(expert / columns), least = 6 * this.scale;
    const wide = Math.max(cellWidth, least), high = Math.max(cellHeight, least);
    const x = this.left + (expert - line * columns + 0.5) * cellWidth, y = block * pitch + (line + 0.5) * cellHeight;
    g.strokeStyle = this.markInk;
    g.lineWidth = 2 * this.scale;
    g.strokeRect(x - wide / 2, y - high / 2, wide, high);
  }

  /* ---- looking at a cell ---- */

  point(event) {
    if (!this.place)
      return;
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) * this.scale - this.left, y = (event.clientY - box.top) * this.scale;
    const { lines, columns, cellWidth, cellHeight, pitch } = this.place;
    const block = Math.floor(y / pitch), line = Math.floor((y - block * pitch) / cellHeight);
    const column = Math.floor(x / cellWidth), expert = line * columns + column;
    const inside = x >= 0 && y >= 0 && block < this.nBlocks && line < lines && column < columns;
    this.look(inside && expert < this.nExperts ? block * this.nExperts + expert : null);
  }

  key(event) {
    if (!this.place)
      return;
    const at = this.at === null ? 0 : this.at;
    const down = this.place.lines > 1 ? this.place.columns : this.nExperts;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: down, ArrowUp: -down };
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey)
      return;
    event.preventDefault();
    this.look(Math.min(Math.max(at + steps[event.key], 0), this.bits.length - 1));
    if (this.onKey)
      this.onKey(this.words());
  }

  look(at) {
    if (at === this.at)
      return;
    this.at = at;
    this.tell();
    this.draw();
  }

  words() {
    const bits = this.bits[this.at];
    const where = bits & ARRIVING ? "arriving" : bits & IN_SLOT ? "in a slot" : "on disk";
    return `Block ${Math.floor(this.at / this.nExperts)}, expert ${this.at % this.nExperts}: ${where}` +
      (this.heat[this.at] > 0.05 ? ", used" : "");
  }

  tell() {
    const lines = this.place ? this.place.lines : 1;
    setText(this.readout, this.at !== null ? this.words()
      : `Down: blocks${lines > 1 ? ` of ${lines} lines` : ""}. Across: experts.`);
  }
}
