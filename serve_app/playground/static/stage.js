// The stage: what is being painted, or the picture one looks at.

import { $, h, write } from "./dom.js";
import { Tile } from "./tile.js";
import { factsOf } from "./facts.js";

const TOAST_MS = 4000;
const QUIET_MS = 4000; // between two things read out while a picture is painted

export class Stage {
  /** `actions`: what can be done with a picture, `[{label, run(picture)}]`. */
  constructor(actions) {
    this.actions = actions;
    this.tiles = [];
    this.saidAt = 0;
  }

  /** Room for `count` pictures of which nothing is known yet. */
  begin(count, { width, height, num_inference_steps: steps }) {
    const label = (index) => (count === 1 ? "Progress" : `Progress of picture ${index + 1}`);
    this.tiles = Array.from({ length: count }, (_, i) => new Tile(width, height, steps, label(i)));
    this.#put();
    this.#forget();
    this.clearAlert();
    this.reveal();
    this.announce(count === 1 ? "Painting" : `Painting ${count} pictures`, true);
  }

  /** An event of the service's stream. */
  told(name, data) {
    const tile = this.tiles[data.index];
    if (name === "queued") {
      if (data.pool) tile.setPool(data.pool);
      const where = tile.pool ? ` at ${tile.pool}` : "";
      tile.say(data.place ? `waiting${where}, place ${data.place}` : `waiting${where}`);
    } else if (name === "step") {
      tile.setStep(data.step, data.steps);
      this.announce(tile.text.textContent);
    } else if (name === "preview") {
      tile.preview(asBlob(data));
    }
  }

  /** A comment of the service's stream: a picture is begun anew, or the connection is kept. */
  commented(text) {
    const again = /^picture (\d+) is painted again, by pool (\S+)$/.exec(text);
    const tile = again && this.tiles[Number(again[1])];
    if (!tile) return;
    tile.setPool(again[2]);
    tile.say(`begun again on ${again[2]}`);
    this.announce(`Begun again on ${again[2]}`, true);
  }

  finish(pictures) {
    const chosen = pictures.length > 1 ? (picture, tile) => this.#choose(picture, tile) : null;
    pictures.forEach((picture, index) => this.tiles[index].finish(picture, chosen));
    this.#choose(pictures[0], this.tiles[0]);
    const by = [...new Set(pictures.map((picture) => picture.accelerator))].join(" and ");
    const what = pictures.length === 1 ? "The picture is" : `${pictures.length} pictures are`;
    this.announce(`${what} done, painted by ${by}`, true);
  }

  stop(text) {
    for (const tile of this.tiles) tile.stop(text);
    this.announce(text, true);
  }

  /** Shows one picture of the gallery. */
  show(picture) {
    const tile = new Tile(picture.asked.width, picture.asked.height, 1, "");
    tile.finish(picture, null);
    this.tiles = [tile];
    this.#put();
    this.clearAlert();
    this.#choose(picture, tile);
  }

  /** Brings the stage into view where it stands below the form. */
  reveal() {
    if ($("stage").getBoundingClientRect().top > innerHeight / 3) $("stage").scrollIntoView();
  }

  alert(message) {
    $("alert").hidden = false;
    $("alert").textContent = message;
  }

  clearAlert() {
    $("alert").hidden = true;
    $("alert").textContent = "";
  }

  /** Has `text` read out; unless it matters, at most every few seconds. */
  announce(text, matters = false) {
    const now = performance.now();
    if (!matters && now - this.saidAt < QUIET_MS) return;
    this.saidAt = now;
    write($("status"), text);
  }

  /** Says briefly that something has been done. */
  toast(text) {
    clearTimeout(this.toasting);
    write($("toast"), text);
    this.toasting = setTimeout(() => write($("toast"), ""), TOAST_MS);
  }

  #put() {
    $("welcome").hidden = true;
    const ratio = this.tiles.length === 1 ? this.tiles[0].ratio : 1;
    $("stage").style.setProperty("--ratio", ratio);
    $("tiles").dataset.count = this.tiles.length;
    $("tiles").replaceChildren(...this.tiles.map((tile) => tile.node));
  }

  #choose(picture, chosen) {
    for (const tile of this.tiles) {
      const looked = tile === chosen && this.tiles.length > 1;
      tile.node.classList.toggle("chosen", looked);
      if (tile.frame.tagName === "BUTTON") tile.frame.setAttribute("aria-pressed", String(looked));
    }
    const buttons = this.actions.map(({ label, run }) =>
      h("button", { type: "button", onclick: () => run(picture) }, label));
    $("facts").replaceChildren(factsOf(picture), h("div", { class: "actions" }, buttons));
    $("facts").hidden = false;
  }

  #forget() {
    $("facts").hidden = true;
    $("facts").replaceChildren();
  }
}

/** A picture as the service sends it in JSON. */
export function asBlob({ b64_json: base64, media_type: type }) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type });
}
