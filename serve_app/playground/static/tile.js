// One picture on its way: noise, then previews, then the picture.

import { paintAs } from "./colours.js";
import { h, write } from "./dom.js";

const COARSE = 256; // pixels of a side, below which a picture is shown with its pixels

export class Tile {
  constructor(width, height, steps, label) {
    this.ratio = width / height;
    this.noise = h("canvas", { class: "noise", "aria-hidden": "true" });
    this.image = h("img", { alt: "", hidden: true });
    this.bar = h("progress", { max: steps, value: 0, "aria-label": label });
    this.text = h("span", { class: "said" }, "asking");
    this.dot = h("i", { class: "dot", "aria-hidden": "true" });
    this.frame = h("div", { class: "frame" }, this.noise, this.image);
    this.node = h("figure", { class: "tile running" }, this.frame,
      h("figcaption", {}, h("span", { class: "line" }, this.dot, this.text), this.bar));
    this.node.style.setProperty("--ratio", this.ratio);
    this.frame.classList.toggle("coarse", Math.max(width, height) < COARSE);
    drawNoise(this.noise, width, height);
  }

  say(text) {
    write(this.text, text);
  }

  setPool(name) {
    this.pool = name;
    paintAs(this.node, name);
  }

  setStep(step, steps) {
    this.bar.max = steps;
    this.bar.value = step;
    this.say(`step ${step} of ${steps}${this.pool ? ` on ${this.pool}` : ""}`);
  }

  /** Shows `blob`; its address is let go once it is drawn, for another has it. */
  async preview(blob) {
    const url = URL.createObjectURL(blob);
    const next = h("img", { src: url, alt: "" });
    try {
      await next.decode();
    } catch {
      return; // overtaken by the next one, or not a picture: the noise stays
    } finally {
      URL.revokeObjectURL(url);
    }
    if (this.done) return;
    next.className = "preview";
    this.image.replaceWith(next);
    this.image = next;
    this.node.dataset.previews = Number(this.node.dataset.previews ?? 0) + 1;
  }

  /** Shows the finished picture. */
  finish(picture, chosen) {
    this.done = true;
    this.setPool(picture.pool);
    const image = h("img", { src: picture.url, alt: picture.asked.prompt, class: "finished" });
    this.node.classList.remove("running");
    this.frame.replaceChildren(image);
    this.bar.remove();
    this.say(picture.accelerator);
    if (chosen) {
      const button = h("button", { type: "button", class: "frame", onclick: () => chosen(picture, this) }, image);
      button.className = this.frame.className;
      this.frame.replaceWith(button);
      this.frame = button;
    }
  }

  /** Leaves what there is, as stopped. */
  stop(text) {
    this.done = true;
    this.node.classList.replace("running", "stopped");
    this.bar.remove();
    this.say(text);
  }
}

/** What a diffusion model starts from. */
function drawNoise(canvas, width, height) {
  const scale = Math.min(1, 96 / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const pen = canvas.getContext("2d");
  const pixels = pen.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    for (let c = 0; c < 3; c++) pixels.data[i + c] = 128 + 90 * (Math.random() + Math.random() - 1);
    pixels.data[i + 3] = 255;
  }
  pen.putImageData(pixels, 0, 0);
}
