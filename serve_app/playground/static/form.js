// The form: its bounds, what it says, and what is wrong with it.

import { $, h, write } from "./dom.js";
import { choicesOf, fitted, shapesOf } from "./limits.js";

const SLIDERS = ["num_inference_steps", "guidance_scale"];
const TEXTS = { num_inference_steps: String, guidance_scale: (v) => Number(v).toFixed(1) };
const MOST_GUIDANCE = 15;
const MOST_AT_ONCE = 4;
const NAMES = [
  "prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale", "seed",
  "n", "pool", "scheduler", "output_format", "image", "mask", "strength",
];
const LEFT = ["n", "strength"]; // by `write`: not of one picture, and the start picture's

export class Form {
  /** `changed()` is called when the picture's size has changed. */
  constructor(changed) {
    this.changed = changed;
    this.fields = null;
    for (const name of SLIDERS) $(name).addEventListener("input", () => this.#show(name));
    for (const side of ["width", "height"]) {
      $(side).addEventListener("change", () => this.#sized());
    }
    $("dice").addEventListener("click", () => {
      $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
      this.clearErrors();
    });
    $("form").addEventListener("input", (event) => this.#clearError(event.target.name));
  }

  /** Takes the bounds and defaults of the service's fields. */
  setFields(fields) {
    this.fields = fields;
    $("prompt").maxLength = fields.prompt.maxLength;
    $("negative_prompt").maxLength = fields.negative_prompt.maxLength;
    for (const side of ["width", "height"]) {
      const { minimum, maximum, multipleOf } = fields[side];
      Object.assign($(side), { min: minimum, max: maximum, step: multipleOf ?? 1 });
      $(side).value = fields[side].default;
    }
    for (const name of SLIDERS) {
      const { minimum, maximum } = fields[name];
      const most = name === "guidance_scale" ? Math.max(MOST_GUIDANCE, fields[name].default) : maximum;
      Object.assign($(name), { min: minimum, max: Math.min(most, maximum) });
      $(name).value = fields[name].default;
      this.#show(name);
    }
    this.#fill("scheduler", choicesOf(fields.scheduler), fields.scheduler.default);
    this.#fill("output_format", choicesOf(fields.output_format), "png");
    const counts = Array.from({ length: Math.min(fields.n.maximum, MOST_AT_ONCE) }, (_, i) => i + 1);
    this.#fill("n", counts, 1);
    $("shape-choices").replaceChildren(...shapesOf(fields).map((shape) => this.#shape(shape)));
    this.#sized();
  }

  /** The pools one may choose from: `{name, available}`. */
  setPools(pools) {
    const select = $("pool");
    const names = ["", ...pools.map((pool) => pool.name)];
    if (names.join("\n") !== [...select.options].map((option) => option.value).join("\n")) {
      const chosen = select.value;
      select.replaceChildren(...names.map((name) => h("option", { value: name }, name || "any pool")));
      select.value = names.includes(chosen) ? chosen : "";
    }
    for (const pool of pools) {
      const option = [...select.options].find((one) => one.value === pool.name);
      write(option, pool.available ? pool.name : `${pool.name} (away)`);
    }
  }

  get size() {
    return { width: Number($("width").value), height: Number($("height").value) };
  }

  /** What is asked for, by the names of `/imagine`; what is left to the service is absent. */
  read() {
    const asked = {
      prompt: $("prompt").value,
      negative_prompt: $("negative_prompt").value,
      ...this.size,
      num_inference_steps: Number($("num_inference_steps").value),
      guidance_scale: Number($("guidance_scale").value),
      seed: readSeed($("seed").value),
      n: Number($("n").value),
      scheduler: $("scheduler").value,
      output_format: $("output_format").value,
      pool: $("pool").value,
    };
    const usual = { negative_prompt: "", seed: null, n: 1, scheduler: "default", pool: "" };
    for (const [name, value] of Object.entries(usual)) {
      if (asked[name] === value) delete asked[name];
    }
    return asked;
  }

  /** Sets the form to what `read` once returned. */
  write(asked) {
    for (const name of NAMES) {
      const input = $(name);
      if (input.type === "file" || !("value" in input) || LEFT.includes(name)) continue;
      if (name in asked) input.value = asked[name];
      else if (name === "scheduler") input.value = "default";
      else if (["negative_prompt", "pool", "seed"].includes(name)) input.value = "";
    }
    for (const name of SLIDERS) this.#show(name);
    this.clearErrors();
    this.#sized();
  }

  /** Shows what is wrong at the field at fault; false if there is no such field. */
  showError(param, message) {
    const place = param && $(`${param}-error`);
    if (!place) return false;
    for (let around = place.closest("details"); around; around = around.parentElement.closest("details")) {
      around.open = true;
    }
    place.setAttribute("role", "alert");
    place.textContent = message;
    place.hidden = false;
    const input = $(param);
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-errormessage", place.id);
    input.focus();
    return true;
  }

  clearErrors() {
    for (const name of NAMES) this.#clearError(name);
  }

  #clearError(name) {
    const place = name && $(`${name}-error`);
    if (!place || place.hidden) return;
    place.hidden = true;
    $(name).removeAttribute("aria-invalid");
    $(name).removeAttribute("aria-errormessage");
  }

  #show(name) {
    write($(`${name}-value`), TEXTS[name]($(name).value));
  }

  #sized() {
    for (const side of ["width", "height"]) {
      if (this.fields) $(side).value = fitted(Number($(side).value), this.fields[side]);
    }
    const { width, height } = this.size;
    for (const radio of document.getElementsByName("shape")) {
      radio.checked = radio.value === `${width}x${height}`;
    }
    this.changed();
  }

  #shape({ label, width, height }) {
    const radio = h("input", { type: "radio", name: "shape", value: `${width}x${height}`, class: "unseen" });
    radio.addEventListener("change", () => {
      $("width").value = width;
      $("height").value = height;
      this.#sized();
    });
    const outline = h("i", { "aria-hidden": "true" });
    outline.style.aspectRatio = `${width} / ${height}`;
    outline.style[width < height ? "height" : "width"] = "1.25rem";
    const text = `${label}, ${width} by ${height} pixels`;
    return h("label", { class: "shape", title: text }, radio, outline, h("span", { class: "unseen" }, text));
  }

  #fill(name, choices, chosen) {
    $(name).replaceChildren(...choices.map((choice) => h("option", { value: choice }, String(choice))));
    $(name).value = chosen;
  }
}

/** A seed as the service takes it; what is no number goes as it is, for the service to refuse. */
function readSeed(text) {
  const trimmed = text.trim();
  if (trimmed === "") return null;
  return /^\d{1,15}$/.test(trimmed) ? Number(trimmed) : trimmed;
}
