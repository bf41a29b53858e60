// The start picture of image-to-image: taken from a file, cut to the size asked for.

import { MaskBrush } from "./brush.js";
import { $, write } from "./dom.js";
import { covering } from "./limits.js";

const USUAL_STRENGTH = { plain: 0.8, masked: 1 };

/** Holds a picture in its own size; what is sent is cut and scaled to the size asked for. */
export class StartPicture {
  /** `size()` tells the size asked for; `failed(message)` what is wrong with a file. */
  constructor(size, failed) {
    this.size = size;
    this.failed = failed;
    this.picture = null;
    this.strengthChosen = false;
    this.brush = new MaskBrush(size, () => this.#setUsualStrength());
    $("image").addEventListener("change", () => $("image").files[0] && this.take($("image").files[0]));
    $("start-remove").addEventListener("click", () => this.remove());
    $("strength").addEventListener("input", () => {
      this.strengthChosen = true;
      this.#showStrength();
    });
    this.#showStrength();
    this.#listenToDrops();
  }

  async take(file) {
    try {
      this.picture = await createImageBitmap(file);
    } catch {
      this.failed(`${file.name || "this"} is not a picture that this browser can read`);
      return;
    }
    $("start-editor").hidden = false;
    this.brush.lay(this.picture);
  }

  remove() {
    this.picture = null;
    this.brush.clear();
    $("image").value = "";
    $("start-editor").hidden = true;
    $("image").focus();
  }

  draw() {
    this.brush.draw();
  }

  /** What to send: `{image, mask, strength}`, the mask `null` if there is none; `null` without a picture. */
  async read() {
    if (!this.picture) return null;
    const { width, height } = this.size();
    const image = await cut(this.picture, width, height, null);
    const mask = this.brush.brushed ? await cut(this.brush.layer, width, height, "black") : null;
    return { image, mask, strength: Number($("strength").value) };
  }

  /** What is brushed is usually made anew altogether, a whole picture usually not. */
  #setUsualStrength() {
    if (this.strengthChosen) return;
    $("strength").value = this.brush.brushed ? USUAL_STRENGTH.masked : USUAL_STRENGTH.plain;
    this.#showStrength();
  }

  #showStrength() {
    write($("strength-value"), Number($("strength").value).toFixed(2));
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

/** The part of `source` that fills `width` x `height`, as PNG; laid on `ground` if there is one. */
function cut(source, width, height, ground) {
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
