// The page: puts its parts together.

import { $, h, write } from "./dom.js";
import { Form } from "./form.js";
import { Gallery } from "./gallery.js";
import { asksForKey, fieldsOf } from "./limits.js";
import { PoolsPanel } from "./pools.js";
import { asCurl, asPython, copy, download, fileName, filesOf } from "./recipes.js";
import { getJson, hasKey, keepKey, keyIsKept, paint, setKey } from "./service.js";
import { asBlob, Stage } from "./stage.js";
import { StartPicture } from "./start.js";

const IDEAS = [
  "a red circle on a blue background",
  "a sailboat on the sea at sunset",
  "three red hearts on a black background",
  "a house on green hills at noon",
  "a yellow star above a purple square",
  "mountains at night in the snow",
];
const PREVIEWS = 3;

let running = null; // the AbortController of what is being painted

const form = new Form(() => start.draw());
const start = new StartPicture(() => form.size, (message) => form.showError("image", message));
const gallery = new Gallery((picture) => {
  if (running) return stage.announce("Wait until the picture is done, or cancel it", true);
  stage.show(picture);
  $("stage").scrollIntoView();
});
const stage = new Stage([
  { label: "Download", run: (picture) => download(picture.blob, fileName(picture)) },
  { label: "Copy as curl", run: (picture) => copied(asCurl(picture), picture) },
  { label: "Copy as Python", run: (picture) => copied(asPython(picture), picture) },
  { label: "Same again", run: sameAgain },
  { label: "Start from this", run: startFrom },
]);
const panel = new PoolsPanel(
  (answer) => {
    write($("model"), answer.model.split("@")[0]);
    $("model").title = `Model ${answer.model}`;
    form.setPools(answer.pools);
  },
  (error) => {
    if (error.status === 401) $("key-box").hidden = false;
  },
  (name) => {
    $("pool").value = name;
    panel.setPin(name);
  },
);

async function run() {
  if (running || !form.fields) return;
  form.clearErrors();
  const asked = form.read();
  if (!asked.prompt.trim()) return form.showError("prompt", "Say what to paint.");
  const control = (running = new AbortController());
  showRunning();
  stage.begin(asked.n ?? 1, asked);
  const began = performance.now();
  try {
    const from = await start.read();
    const answer = await paint(await withPictures(asked, from), {
      signal: control.signal,
      told: (name, data) => stage.told(name, data),
      commented: (text) => stage.commented(text),
    });
    const took = (performance.now() - began) / 1000;
    const pictures = answer.data.map((made) => pictureOf(made, asked, from, took));
    stage.finish(pictures);
    gallery.add(pictures);
  } catch (error) {
    failed(error);
  } finally {
    running = null;
    showRunning();
    panel.look();
  }
}

async function withPictures(asked, from) {
  const fields = { ...asked, partial_images: PREVIEWS };
  if (!from) return fields;
  fields.image = await asBase64(from.image);
  if (from.mask) fields.mask = await asBase64(from.mask);
  return { ...fields, strength: from.strength };
}

function pictureOf(made, asked, from, took) {
  const blob = asBlob(made);
  const recipe = { ...asked, seed: made.seed };
  delete recipe.n;
  if (from) recipe.strength = from.strength;
  return {
    asked: recipe,
    blob,
    url: URL.createObjectURL(blob),
    mediaType: made.media_type,
    seed: made.seed,
    pool: made.pool,
    accelerator: made.accelerator,
    reason: made.route_reason,
    timings: made.timings,
    truncated: made.prompt_truncated,
    unknownWords: made.unknown_words,
    seconds: took,
    from,
  };
}

function failed(error) {
  if (error.name === "AbortError") return stage.stop("Cancelled");
  stage.stop("Failed");
  if (error.status === 401) return askForKey(error.message);
  const again = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  const message = `${error.message}${again}`;
  if (!form.showError(error.param, message)) stage.alert(message);
}

function showRunning() {
  $("paint").disabled = running !== null;
  $("cancel").disabled = running === null;
  document.body.classList.toggle("painting", running !== null);
}

function askForKey(message) {
  $("key-box").hidden = false;
  if (message) stage.alert(message);
  $("key").focus();
}

async function copied(text, picture) {
  try {
    await copy(text);
  } catch (error) {
    return stage.alert(`Could not copy: ${error.message}`);
  }
  const files = filesOf(picture);
  for (const { name, blob } of files) download(blob, name);
  const names = files.map((file) => file.name).join(" and ");
  stage.toast(names ? `Copied; it reads ${names}, downloaded too` : "Copied");
}

async function sameAgain(picture) {
  form.write(picture.asked);
  if (picture.from) await start.restore(picture.from);
  else start.remove();
  panel.setPin($("pool").value);
  $("prompt").focus();
}

async function startFrom(picture) {
  await start.take(picture.blob);
  $("mask").focus();
}

async function asBase64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

async function load() {
  try {
    const document = await getJson("openapi.json");
    form.setFields(fieldsOf(document));
    if (asksForKey(document) || hasKey()) $("key-box").hidden = false;
    stage.clearAlert();
    $("paint").disabled = false;
  } catch (error) {
    stage.alert(`${error.message} The page tries again.`);
    setTimeout(load, 3000);
  }
}

function listen() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  $("cancel").addEventListener("click", () => running?.abort());
  $("pool").addEventListener("change", () => panel.setPin($("pool").value));
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") running?.abort();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  });
  $("key-kept").checked = keyIsKept();
  if (hasKey()) $("key").placeholder = "kept in this tab";
  $("key-kept").addEventListener("change", () => keepKey($("key-kept").checked));
  $("key").addEventListener("change", () => {
    setKey($("key").value);
    stage.clearAlert();
    panel.look();
  });
}

$("paint").disabled = true;
if (matchMedia("(max-width: 760px)").matches) $("settings").open = false;
$("ideas").replaceChildren(...IDEAS.map((idea) => h("li", {}, h("button", {
  type: "button",
  onclick: () => {
    $("prompt").value = idea;
    run();
  },
}, idea))));
listen();
load();
panel.look();
