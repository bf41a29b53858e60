// The pictures of this session; they live as long as the page.

import { paintAs } from "./colours.js";
import { $, h, write } from "./dom.js";

const MOST = 60;

export class Gallery {
  /** `chosen(picture)` is called when one is to be looked at. */
  constructor(chosen) {
    this.chosen = chosen;
    this.pictures = [];
  }

  add(pictures) {
    for (const picture of pictures) {
      this.pictures.unshift(picture);
      $("gallery").prepend(this.#item(picture));
    }
    for (const old of this.pictures.splice(MOST)) {
      URL.revokeObjectURL(old.url);
      $("gallery").lastElementChild.remove();
    }
    $("gallery-box").hidden = false;
    write($("gallery-count"), String(this.pictures.length));
  }

  #item(picture) {
    const { prompt } = picture.asked;
    const label = `${prompt}; seed ${picture.seed}, painted by ${picture.accelerator}`;
    const image = h("img", { src: picture.url, alt: "", loading: "lazy" });
    if (Math.max(picture.asked.width, picture.asked.height) < 256) image.className = "coarse";
    const button = h("button", { type: "button", "aria-label": label, title: label,
      onclick: () => this.chosen(picture) }, image);
    paintAs(button, picture.pool);
    return h("li", {}, button);
  }
}
