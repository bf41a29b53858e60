// The start picture of image-to-image, and the mask brushed over it.

import { $, write } from "./dom.js";
import { covering } from "./limits.js";

const MASK_SIDE = 1024; // pixels of the mask's longer side, whatever the picture has
const SHOWN_SIDE = 640;
const NUDGE = 0.02; // of the shown width, by one press of an arrow key

/** Holds a picture in its own size; what is sent is cut and scaled to the size asked for. */
export class StartPicture {
  /** `size()` tells the size asked for; `failed(message)` what is wrong with a file. */
  constructor(size, failed) {
    this.size = size;
    this.failed = failed;
    this.picture = null;
    this.mask = document.createElement("canvas");
    this.brushed = false;
    this.cursor = { x: 0.5, y: 0.5, shown: false };
    this.#listen();
  }

  async take(file) {
    let picture;
    try {
      picture = await createImageBitmap(file);
    } catch {
      this.failed(`${file.name || "this"} is not a picture that this browser can read`);
      return;
    }
    this.picture = picture;
    const scale = MASK_SIDE / Math.max(picture.width, picture.height);
    this.mask.width = Math.max(1, Math.round(picture.width * scale));
    this.mask.height = Math.max(1, Math.round(picture.height * scale));
    this.clearMask();
    $("start-editor").hidden = false;
    this.draw();
  }

  remove() {
    this.picture = null;
    this.brushed = false;
    $("image").value = "";
    $("start-editor").hidden = true;
    $("image").focus();
  }

  clearMask() {
    this.mask.getContext("2d").clearRect(0, 0, this.mask.width, this.mask.height);
    this.#setBrushed(false);
    this.draw();
  }

  /** The fields to send, and the files they were made of; `null` without a picture. */
  async read() {
    if (!this.picture) return null;
    const { width, height } = this.size();
    const image = await this.#cut(this.picture, width, height, null);
    const mask = this.brushed ? await this.#cut(this.mask, width, height, "black") : null;
    return { image, mask, strength: Number($("strength").value) };
  }

  /** Draws picture and mask as they will be cut. */
  draw() {
    const canvas = $("mask");
    if (!this.picture) return;
    const { width, height } = this.size();
    const scale = SHOWN_SIDE / Math.max(width, height);
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    const cut = covering(this.picture, width, height);
    pen.imageSmoothingEnabled = cut.across > 256;
    pen.drawImage(this.picture, cut.x, cut.y, cut.across, cut.down, 0, 0, canvas.width, canvas.height);
    const under = covering(this.mask, width, height);
    pen.globalAlpha = 0.62;
    pen.imageSmoothingEnabled = true;
    pen.drawImage(this.#tinted(), under.x, under.y, under.across, under.down, 0, 0, canvas.width, canvas.height);
    pen.globalAlpha = 1;
    if (this.cursor.shown) this.#drawCursor(pen, canvas);
  }

  async #cut(source, width, height, ground) {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    if (ground) {
      pen.fillStyle = ground;
      pen.fillRect(0, 0, width, height);
    }
    const { x, y, across, down } = covering(source, width, height);
    pen.drawImage(source, x, y, across, down, 0, 0, width, height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  #tinted() {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: this.mask.width, height: this.mask.height });
    const pen = canvas.getContext("2d");
    pen.drawImage(this.mask, 0, 0);
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = "#e5399a";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    return canvas;
  }

  #drawCursor(pen, canvas) {
    pen.beginPath();
    const radius = (this.#brushSize() / 2) * canvas.width;
    pen.arc(this.cursor.x * canvas.width, this.cursor.y * canvas.height, radius, 0, 2 * Math.PI);
    pen.lineWidth = 5;
    pen.strokeStyle = "#000";
    pen.stroke();
    pen.lineWidth = 2.5;
    pen.strokeStyle = "#fff";
    pen.stroke();
  }

  /** Brushes from one place to another; both in parts of the shown picture. */
  #stroke(from, to) {
    const { width, height } = this.size();
    const { x, y, across, down } = covering(this.mask, width, height);
    const pen = this.mask.getContext("2d");
    const erasing = $("eraser").getAttribute("aria-pressed") === "true";
    pen.globalCompositeOperation = erasing ? "destination-out" : "source-over";
    pen.lineCap = pen.lineJoin = "round";
    pen.lineWidth = this.#brushSize() * across;
    pen.strokeStyle = "#fff";
    pen.beginPath();
    pen.moveTo(x + from.x * across, y + from.y * down);
    pen.lineTo(x + to.x * across, y + to.y * down);
    pen.stroke();
    if (!erasing) this.#setBrushed(true);
    this.draw();
  }

  #setBrushed(brushed) {
    // What is brushed is usually to be made anew altogether, a whole picture usually not.
    if (brushed !== this.brushed && !this.strengthChosen) {
      $("strength").value = brushed ? 1 : 0.8;
      this.#showStrength();
    }
    this.brushed = brushed;
  }

  #brushSize() {
    return Number($("brush-size").value) / 100;
  }

  #showStrength() {
    write($("strength-value"), Number($("strength").value).toFixed(2));
  }

  #listen() {
    $("image").addEventListener("change", () => $("image").files[0] && this.take($("image").files[0]));
    $("start-remove").addEventListener("click", () => this.remove());
    $("mask-clear").addEventListener("click", () => this.clearMask());
    $("strength").addEventListener("input", () => {
      this.strengthChosen = true;
      this.#showStrength();
    });
    const sized = () => {
      write($("brush-size-value"), `${$("brush-size").value} %`);
      this.draw();
    };
    $("brush-size").addEventListener("input", sized);
    sized();
    this.#showStrength();
    for (const name of ["brush", "eraser"]) {
      $(name).addEventListener("click", () => {
        for (const one of ["brush", "eraser"]) $(one).setAttribute("aria-pressed", String(one === name));
      });
    }
    this.#listenToPointer($("mask"));
    this.#listenToKeys($("mask"));
    this.#listenToDrops();
  }

  #listenToPointer(canvas) {
    let last = null;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
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
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));
  }

  #listenToKeys(canvas) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    let brushing = false;
    canvas.addEventListener("keydown", (event) => {
      const at = { x: this.cursor.x, y: this.cursor.y };
      if (event.key === " ") {
        brushing = true;
        this.#stroke(at, at);
      } else if (event.key in ways) {
        const [x, y] = ways[event.key];
        const far = event.shiftKey ? 5 * NUDGE : NUDGE;
        this.cursor.x = Math.min(1, Math.max(0, at.x + x * far));
        this.cursor.y = Math.min(1, Math.max(0, at.y + y * far));
        if (brushing) this.#stroke(at, this.cursor);
        else this.draw();
      } else {
        return;
      }
      event.preventDefault();
    });
    canvas.addEventListener("keyup", (event) => {
      if (event.key === " ") brushing = false;
    });
    const showCursor = (shown) => {
      this.cursor.shown = shown && canvas.matches(":focus-visible");
      brushing = false;
      this.draw();
    };
    canvas.addEventListener("focus", () => showCursor(true));
    canvas.addEventListener("blur", () => showCursor(false));
  }

  #listenToDrops() {
    const drop = $("drop");
    const pictureIn = (data) => [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));
    // Anywhere on the page: what misses the frame would else open in place of the page.
    addEventListener("dragover", (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
    addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
    addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      const file = pictureIn(event.dataTransfer);
      if (file) this.take(file);
      else if (event.dataTransfer.files.length) this.failed("only PNG, JPEG and WebP pictures can be taken");
    });
    addEventListener("paste", (event) => {
      const file = pictureIn(event.clipboardData);
      if (file) this.take(file);
    });
  }
}
