// The start picture of image-to-image: taken from a file, cut to the size asked for.

import { MaskBrush } from "./brush.js";
import { cut } from "./cutting.js";
import { $, write } from "./dom.js";

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
    $("start-remove").addEventListener("click", () => {
      this.remove();
      $("image").focus();
    });
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

  /** As it was when `read` returned this. */
  async restore({ image, mask, strength }) {
    await this.take(image);
    if (mask) await this.brush.take(mask);
    this.strengthChosen = true;
    $("strength").value = strength;
    this.#showStrength();
  }

  remove() {
    this.picture = null;
    this.brush.clear();
    $("image").value = "";
    $("start-editor").hidden = true;
  }

  draw() {
    this.brush.draw();
  }

  /** What to send: `{image, mask, strength}`, the mask `null` if there is none; `null` without a picture. */
  async read() {
    if (!this.picture) return null;
    const { width, height } = this.size();
    const image = await cut(this.picture, width, height, null);
    return { image, mask: await this.brush.read(), strength: Number($("strength").value) };
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
