// The panel that shows every pool as the router sees it, and lets one be pinned.

import { learnPools, paintAs } from "./colours.js";
import { $, h, keep, percent, seconds, write } from "./dom.js";
import { getJson } from "./service.js";

const EVERY_MS = 2000;
const MOST_PIPS = 12;
const FIGURES = [
  ["share", "Planned", "Share of the traffic that the policy plans; – where it plans none"],
  ["traffic", "Traffic", "Share of the pictures of the last minute"],
  ["rate", "Rate", "Pictures a minute"],
  ["p50", "Latency", "Median of the last minute, from send to answer"],
  ["p95", "p95", "95 of 100 pictures of the last minute were faster"],
  ["cost", "Per 1000", "US dollars for 1000 pictures at the full rate"],
];

export class PoolsPanel {
  /**
   * `seen(answer)` gets every answer of `/pools`, `failed(error)` every error; `pinned(name)` the
   * pool to pin, or "".
   */
  constructor(seen, failed, pinned) {
    this.seen = seen;
    this.failed = failed;
    this.pinned = pinned;
    this.pin = "";
    this.timer = 0;
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
  }

  /** Looks now, and from then on again and again while the page is to be seen. */
  async look() {
    clearTimeout(this.timer);
    const turn = (this.turn = {});
    try {
      const answer = await getJson("pools");
      if (turn === this.turn) this.#show(answer);
    } catch (error) {
      write($("pools-state"), error.message);
      $("pools-state").classList.add("bad");
      this.failed(error);
    }
    if (turn === this.turn && !document.hidden) this.timer = setTimeout(() => this.look(), EVERY_MS);
  }

  setPin(name) {
    this.pin = name;
    for (const item of $("pools").children) this.#showPin(item);
  }

  #show(answer) {
    learnPools(answer.pools.map((pool) => pool.name));
    const there = answer.pools.filter((pool) => pool.available).length;
    write($("pools-state"), `${there} of ${answer.pools.length} available, policy ${answer.policy}`);
    $("pools-state").classList.toggle("bad", there === 0);
    this.#showShare(answer.pools);
    keep($("pools"), answer.pools, (pool) => pool.name, (pool) => this.#make(pool),
      (item, pool) => this.#update(item, pool));
    write($("pools-foot"), footOf(answer));
    this.seen(answer);
  }

  #showShare(pools) {
    const painted = pools.some((pool) => pool.traffic_share > 0);
    const shares = pools.map((pool) => [pool.name, painted ? pool.traffic_share : (pool.share ?? 0)]);
    $("share").title = painted ? "Pictures of the last minute" : "Planned shares";
    keep($("share"), shares.filter(([, part]) => part > 0), ([name]) => name, () => h("span"),
      (part, [name, share]) => {
        part.style.flexGrow = share;
        paintAs(part, name);
      });
  }

  #make(pool) {
    const parts = {};
    const part = (name, tag = "span", properties = {}) => (parts[name] = h(tag, properties));
    const item = h("li", { class: "pool" },
      h("div", { class: "head" },
        h("i", { class: "dot", "aria-hidden": "true" }), h("h3", {}, pool.name),
        part("accelerator", "span", { class: "accelerator" }),
        part("pin", "button", { type: "button", class: "pin", "aria-label": `Let ${pool.name} paint`,
          onclick: () => this.pinned(this.pin === pool.name ? "" : pool.name) })),
      h("p", { class: "replicas" }, part("pips", "span", { class: "pips", "aria-hidden": "true" }), part("replicas")),
      h("dl", {},
        FIGURES.map(([name, title, about]) =>
          h("div", { title: about }, h("dt", {}, title), part(name, "dd")))),
      part("scaling", "p", { class: "scaling" }));
    item.parts = parts;
    item.name = pool.name;
    paintAs(item, pool.name);
    return item;
  }

  #update(item, pool) {
    const { parts } = item;
    item.classList.toggle("away", !pool.available);
    write(parts.accelerator, pool.accelerator);
    write(parts.replicas, replicasOf(pool));
    showPips(parts.pips, pool);
    const { latency_s: latency, cost_per_1000: cost } = pool;
    write(parts.share, percent(pool.share));
    write(parts.traffic, percent(pool.traffic_share));
    write(parts.rate, `${Math.round(pool.images_per_minute)} / min`);
    write(parts.p50, seconds(latency?.p50));
    write(parts.p95, seconds(latency?.p95));
    write(parts.cost, cost === null ? "–" : `$${cost.toFixed(2)}`);
    write(parts.scaling, scalingOf(pool));
    parts.scaling.hidden = parts.scaling.textContent === "";
    this.#showPin(item);
  }

  #showPin(item) {
    const pinned = item.name === this.pin;
    write(item.parts.pin, pinned ? "Pinned" : "Pin");
    item.parts.pin.setAttribute("aria-pressed", String(pinned));
  }
}

function showPips(pips, pool) {
  const starting = pool.starting_replicas + pool.updating_replicas;
  const states = [
    ...Array(pool.ready_replicas).fill("ready"),
    ...Array(starting).fill("starting"),
    ...Array(pool.draining_replicas).fill("draining"),
  ].slice(0, MOST_PIPS);
  keep(pips, states.map((state, index) => ({ state, index })), ({ index }) => index, () => h("i"),
    (pip, { state }) => (pip.className = state));
}

function replicasOf(pool) {
  if (!pool.available) return pool.reason ?? "not available";
  const replicas = pool.ready_replicas === 1 ? "1 replica" : `${pool.ready_replicas} replicas`;
  const parts = [`${replicas} of at most ${pool.max_replicas}`];
  if (pool.starting_replicas) parts.push(`${pool.starting_replicas} starting`);
  if (pool.draining_replicas) parts.push(`${pool.draining_replicas} leaving`);
  if (pool.queue.requests) parts.push(`${pool.queue.requests} under way`);
  if (pool.breaker !== "closed") parts.push(pool.breaker === "open" ? "held after failures" : "on trial after failures");
  return parts.join(", ");
}

function scalingOf({ autoscaling: told }) {
  return told ? `Target ${told.target}: ${told.reason}` : "";
}

function footOf(answer) {
  const parts = [];
  if (answer.waiting_for_capacity) parts.push(`${answer.waiting_for_capacity} waiting for a first replica.`);
  if (answer.waiting_turns) parts.push(`${answer.waiting_turns} waiting for their turn.`);
  if (answer.config_problem) parts.push(`The newest configuration was refused: ${answer.config_problem}`);
  const many = answer.ingress_replicas > 1;
  parts.push(`Latency objective ${answer.slo_s} s.`);
  if (many) parts.push(`As one of ${answer.ingress_replicas} ingress replicas sees it.`);
  return parts.join(" ");
}
