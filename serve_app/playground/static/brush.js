// The mask: brushed over the start picture, by pointer or by keys.

import { covering, cut } from "./cutting.js";
import { $, write } from "./dom.js";

const MASK_SIDE = 1024; // pixels of the mask's longer side, whatever the picture has
const SHOWN_SIDE = 640;
const NUDGE = 0.02; // of the shown width, by one press of an arrow key
const TINT = "#e5399a";
const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Lies on the whole picture, of which the canvas shows the part that fills the size asked for. */
export class MaskBrush {
  /** `size()` tells the size asked for; `changed()` is called when `brushed` has changed. */
  constructor(size, changed) {
    this.size = size;
    this.changed = changed;
    this.picture = null;
    this.brushed = false;
    this.taken = null;
    this.layer = document.createElement("canvas");
    this.pen = this.layer.getContext("2d", { willReadFrequently: true });
    this.cursor = { x: 0.5, y: 0.5, shown: false };
    this.#listenToTools();
    this.#listenToPointer($("mask"));
    this.#listenToKeys($("mask"));
  }

  /** Begins anew over `picture`. */
  lay(picture) {
    this.picture = picture;
    const scale = MASK_SIDE / Math.max(picture.width, picture.height);
    this.layer.width = Math.max(1, Math.round(picture.width * scale));
    this.layer.height = Math.max(1, Math.round(picture.height * scale));
    this.clear();
  }

  /** The mask to send, or `null`. */
  async read() {
    const { width, height } = this.size();
    if (!this.brushed) return null;
    if (this.taken?.width === width && this.taken.height === height) return this.taken.file;
    return cut(this.layer, width, height, "black");
  }

  clear() {
    this.taken = null;
    this.pen.clearRect(0, 0, this.layer.width, this.layer.height);
    this.#setBrushed(false);
    this.draw();
  }

  /**
   * A mask as it was sent, white on black, over the whole picture. While nothing is changed it is
   * sent as it was, for its edges do not survive scaling up and down.
   */
  async take(file) {
    const mask = await createImageBitmap(file);
    this.taken = { file, width: mask.width, height: mask.height };
    const { pen, layer } = this;
    pen.globalCompositeOperation = "source-over";
    pen.drawImage(mask, 0, 0, layer.width, layer.height);
    const pixels = pen.getImageData(0, 0, layer.width, layer.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data[i + 3] = pixels.data[i];
      pixels.data.fill(255, i, i + 3);
    }
    pen.putImageData(pixels, 0, 0);
    this.#setBrushed(this.#isLeft());
    this.draw();
  }

  /** Draws picture and mask as they will be cut. */
  draw() {
    if (!this.picture) return;
    const canvas = $("mask");
    const { width, height } = this.size();
    const scale = SHOWN_SIDE / Math.max(width, height);
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const pen = canvas.getContext("2d");
    const put = (source) => {
      const { x, y, across, down } = covering(source, width, height);
      pen.drawImage(source, x, y, across, down, 0, 0, canvas.width, canvas.height);
    };
    pen.imageSmoothingQuality = "high";
    pen.imageSmoothingEnabled = Math.max(this.picture.width, this.picture.height) >= 256;
    put(this.picture);
    pen.imageSmoothingEnabled = true;
    pen.globalAlpha = 0.62;
    put(this.#tinted());
    pen.globalAlpha = 1;
    if (this.cursor.shown) this.#drawCursor(pen, canvas);
  }

  #tinted() {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: this.layer.width, height: this.layer.height });
    const pen = canvas.getContext("2d");
    pen.drawImage(this.layer, 0, 0);
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = TINT;
    pen.fillRect(0, 0, canvas.width, canvas.height);
    return canvas;
  }

  #drawCursor(pen, canvas) {
    pen.beginPath();
    const radius = (brushSize() / 2) * canvas.width;
    pen.arc(this.cursor.x * canvas.width, this.cursor.y * canvas.height, radius, 0, 2 * Math.PI);
    for (const [width, colour] of [[5, "#000"], [2.5, "#fff"]]) {
      pen.lineWidth = width;
      pen.strokeStyle = colour;
      pen.stroke();
    }
  }

  /** Brushes from one place to another; both in parts of the shown picture. */
  #stroke(from, to) {
    const { width, height } = this.size();
    const { x, y, across, down } = covering(this.layer, width, height);
    const { pen } = this;
    pen.globalCompositeOperation = isErasing() ? "destination-out" : "source-over";
    pen.fillStyle = pen.strokeStyle = "#fff";
    pen.lineCap = "round";
    pen.lineWidth = brushSize() * across;
    const end = [x + to.x * across, y + to.y * down];
    pen.beginPath();
    pen.moveTo(x + from.x * across, y + from.y * down);
    pen.lineTo(...end);
    pen.stroke();
    // A line without length leaves no trace.
    pen.beginPath();
    pen.arc(...end, pen.lineWidth / 2, 0, 2 * Math.PI);
    pen.fill();
    this.draw();
  }

  #lift() {
    this.taken = null;
    this.#setBrushed(isErasing() ? this.#isLeft() : true);
  }

  #isLeft() {
    const { data } = this.pen.getImageData(0, 0, this.layer.width, this.layer.height);
    for (let i = 3; i < data.length; i += 4) if (data[i] > 127) return true;
    return false;
  }

  #setBrushed(brushed) {
    if (brushed === this.brushed) return;
    this.brushed = brushed;
    this.changed();
  }

  #listenToTools() {
    $("mask-clear").addEventListener("click", () => this.clear());
    const sized = () => {
      write($("brush-size-value"), `${$("brush-size").value} %`);
      this.draw();
    };
    $("brush-size").addEventListener("input", sized);
    sized();
    const tools = ["brush", "eraser"];
    for (const name of tools) {
      $(name).addEventListener("click", () => {
        for (const one of tools) $(one).setAttribute("aria-pressed", String(one === name));
      });
    }
  }

  #listenToPointer(canvas) {
    let last = null;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
    };
    const lift = () => {
      if (last) this.#lift();
      last = null;
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      last = place(event);
      this.#stroke(last, last);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      for (const one of event.getCoalescedEvents?.() ?? [event]) {
        const next = place(one);
        this.#stroke(last, next);
        last = next;
      }
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, lift);
  }

  #listenToKeys(canvas) {
    let down = false;
    canvas.addEventListener("keydown", (event) => {
      const at = { x: this.cursor.x, y: this.cursor.y };
      if (event.key === " ") {
        down = true;
        this.#stroke(at, at);
      } else if (event.key in WAYS) {
        const [x, y] = WAYS[event.key];
        const far = event.shiftKey ? 5 * NUDGE : NUDGE;
        this.cursor.x = Math.min(1, Math.max(0, at.x + x * far));
        this.cursor.y = Math.min(1, Math.max(0, at.y + y * far));
        if (down) this.#stroke(at, this.cursor);
        else this.draw();
      } else {
        return;
      }
      event.preventDefault();
    });
    const lift = () => {
      if (down) this.#lift();
      down = false;
    };
    canvas.addEventListener("keyup", (event) => event.key === " " && lift());
    const show = (shown) => {
      lift();
      this.cursor.shown = shown;
      this.draw();
    };
    canvas.addEventListener("focus", () => show(canvas.matches(":focus-visible")));
    canvas.addEventListener("blur", () => show(false));
  }
}

function isErasing() {
  return $("eraser").getAttribute("aria-pressed") === "true";
}

/** In parts of the shown width. */
function brushSize() {
  return Number($("brush-size").value) / 100;
}
