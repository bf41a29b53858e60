// A picture's recipe as a command for others to run.

import { address, hasKey } from "./service.js";

const EXTENSIONS = { "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp" };

export function fileName(picture) {
  const words = picture.asked.prompt.toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, 40);
  return `${words.replace(/^-+|-+$/g, "") || "picture"}-${picture.seed}.${EXTENSIONS[picture.mediaType]}`;
}

/** For a POSIX shell. Start picture and mask are read from `start.png` and `mask.png`. */
export function asCurl(picture) {
  const head = ["curl", quoted(address("imagine")), "--fail-with-body", "-o", quoted(fileName(picture)),
    "-H", "'Content-Type: application/json'"];
  if (hasKey()) head.push("-H", '"Authorization: Bearer $IMAGINE_KEY"');
  const body = JSON.stringify(picture.asked);
  const files = filesOf(picture);
  if (!files.length) return `${head.join(" ")} \\\n  -d ${quoted(body)}`;
  // Through a pipe, as a command line is too short for a picture.
  const parts = [];
  let before = `${body.slice(0, -1)},`;
  for (const { field, name } of files) {
    parts.push(`printf %s ${quoted(`${before}"${field}":"`)}`, `base64 < ${name} | tr -d '\\n'`);
    before = '",';
  }
  parts.push(`printf %s '"}'`);
  return `{ ${parts.join("; ")}; } |\n  ${head.join(" ")} \\\n  --data-binary @-`;
}

/** For Python 3, without any package. */
export function asPython(picture) {
  const files = filesOf(picture);
  const key = hasKey();
  const lines = ["import json"];
  if (files.length) lines.unshift("import base64");
  if (key) lines.push("import os");
  lines.push("import urllib.request", "", `recipe = ${pythonDict(picture.asked)}`);
  for (const { field, name } of files) {
    lines.push(`recipe["${field}"] = base64.b64encode(open("${name}", "rb").read()).decode()`);
  }
  lines.push(
    "request = urllib.request.Request(",
    `    ${JSON.stringify(address("imagine"))},`,
    "    data=json.dumps(recipe).encode(),",
    '    headers={"Content-Type": "application/json"},',
    ")",
  );
  if (key) lines.push('request.add_header("Authorization", "Bearer " + os.environ["IMAGINE_KEY"])');
  lines.push(
    `with urllib.request.urlopen(request) as answer, open(${JSON.stringify(fileName(picture))}, "wb") as file:`,
    "    file.write(answer.read())",
    "",
  );
  return lines.join("\n");
}

/** The files that a picture's commands read: `{field, name, blob}`. */
export function filesOf({ from }) {
  return ["image", "mask"]
    .map((field) => ({ field, name: field === "image" ? "start.png" : "mask.png", blob: from?.[field] }))
    .filter(({ blob }) => blob);
}

/** Texts and numbers alone, which Python reads as JSON writes them. */
function pythonDict(fields) {
  const lines = Object.entries(fields).map(([name, value]) => `    ${JSON.stringify(name)}: ${JSON.stringify(value)},`);
  return `{\n${lines.join("\n")}\n}`;
}

function quoted(text) {
  return /^[\w./:-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** To the clipboard; in pages that came without TLS by way of a selection. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Error("this browser does not let the page copy");
}

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
