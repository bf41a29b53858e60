// What a request may hold, from the service's own OpenAPI document.

const SHAPES = [
  ["Square", 1, 1],
  ["Wide", 3, 2],
  ["Tall", 2, 3],
  ["Widest", 16, 9],
  ["Tallest", 9, 16],
];

/** The fields of `/imagine` by name, with `default`, `minimum`, `maximum`, `enum`, … */
export function fieldsOf(document) {
  return document.components.schemas.ImagineRequest.properties;
}

/** Whether nothing can be painted without an API key. */
export function asksForKey(document) {
  const ways = document.paths["/imagine"].post.security ?? [];
  return ways.length > 0 && ways.every((way) => Object.keys(way).length > 0);
}

export function choicesOf(field) {
  return field.enum.filter((choice) => choice !== null);
}

/** Shapes with about the model's own number of pixels that are allowed: `{label, width, height}`. */
export function shapesOf(fields) {
  const area = fields.width.default * fields.height.default;
  const found = new Map();
  for (const [label, across, down] of SHAPES) {
    // Larger rather than out of shape where a side would be too short.
    const unit = Math.max(
      Math.sqrt(area / (across * down)), fields.width.minimum / across, fields.height.minimum / down);
    const width = fitted(across * unit, fields.width);
    const height = fitted(down * unit, fields.height);
    const upright = Math.sign(width - height) === Math.sign(across - down);
    const name = `${width}x${height}`;
    if (upright && !found.has(name)) found.set(name, { label, width, height });
  }
  return [...found.values()];
}

/** The allowed length that is nearest to `pixels`. */
export function fitted(pixels, field) {
  const step = field.multipleOf ?? 1;
  const low = Math.ceil(field.minimum / step) * step;
  const high = Math.floor(field.maximum / step) * step;
  return Math.min(high, Math.max(low, Math.round(pixels / step) * step));
}
