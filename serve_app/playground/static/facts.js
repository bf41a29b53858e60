// What is known of a finished picture.

import { paintAs } from "./colours.js";
import { h, seconds } from "./dom.js";

const REASONS = {
  policy: "chosen by the routing policy",
  sticky: "where you were before",
  pinned: "as you asked",
  retry: "after another pool had failed",
  probe: "to see whether that pool works again",
};

export function factsOf(picture) {
  const { asked, timings } = picture;
  const mark = h("i", { class: "dot", "aria-hidden": "true" });
  const painter = h("p", { class: "painter" }, mark, h("strong", {}, picture.accelerator),
    h("span", {}, ` pool ${picture.pool}, ${REASONS[picture.reason] ?? picture.reason}`));
  paintAs(painter, picture.pool);
  const recipe = [
    ["Seed", picture.seed],
    ["Size", `${asked.width} × ${asked.height}`],
    ["Steps", asked.num_inference_steps],
    ["Guidance", asked.guidance_scale],
    ["Scheduler", asked.scheduler],
    ["Strength", asked.strength],
    ["Not", asked.negative_prompt],
    ["Time", seconds(picture.seconds)],
    ["Queue", seconds(timings.queue / 1000)],
    ["Denoising", seconds(timings.denoise / 1000)],
  ].filter(([, value]) => value !== undefined);
  const list = h("dl", {}, recipe.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
  return h("div", {}, h("p", { class: "prompt" }, asked.prompt), painter, notesOf(picture), list);
}

function notesOf({ truncated, unknownWords }) {
  const notes = [];
  if (unknownWords.length) notes.push(`The model does not know: ${unknownWords.join(", ")}.`);
  if (truncated) notes.push("The prompt was longer than the model reads; its end was left out.");
  return notes.length ? h("p", { class: "note" }, notes.join(" ")) : null;
}
