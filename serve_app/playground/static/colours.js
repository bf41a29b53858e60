// Each pool has a colour, the same everywhere on the page.

const MANY = 8; // as the style sheet has
const known = new Map();

/** Numbers the pools in the order that the service names them. */
export function learnPools(names) {
  for (const name of names) if (!known.has(name)) known.set(name, known.size % MANY);
}

/** Gives `element` the colour of pool `name`, or none. */
export function paintAs(element, name) {
  if (known.has(name)) element.dataset.hue = known.get(name);
  else delete element.dataset.hue;
}
