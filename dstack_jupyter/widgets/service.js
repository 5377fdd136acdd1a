import { durationText, moneyText, secondsText } from "./amounts.js";
import { button, element, setText } from "./element.js";
import { LogBar } from "./logbar.js";
import { LogView } from "./logview.js";
import { Plot } from "./plot.js";
import { Stopping } from "./stopping.js";
import { Store } from "./store.js";
import { followTheme } from "./theme.js";
import { Trial } from "./trial.js";

/**
 * The card of one service. Its state comes in the trait `service_state`; output, samples of the
 * traffic and answers of the try-it box come in messages; see service.py.
 */

const KEPT = 300; // samples: five minutes of one a second

/** What is known of a model, for all its views: module state, because each view has its own proxy. */
const knowledge = new Map();

/** The kernel's clock, the replicas' outputs, and the traffic of the last minutes. */
class Knowledge {
  constructor() {
    this.clock = new Store();
    this.outputs = new Map();
    this.samples = [];
    this.listeners = new Set();
  }

  take(message, buffers) {
    if (message.log === undefined) {
      this.clock.take(message, buffers);
    } else {
      this.clock.heard = Date.now();
      this.outputOf(message.log).take(message, buffers);
    }
    if (message.type === "samples") {
      this.samples = [...(message.all ? [] : this.samples), ...message.samples].slice(-KEPT);
    }
    this.tell(message);
  }

  outputOf(log) {
    let store = this.outputs.get(log);
    if (!store) {
      store = new Store();
      store.listeners.add((message) => message.type === "drawn" && this.tell({ type: "drawn", log }));
      this.outputs.set(log, store);
    }
    return store;
  }

  tell(message) {
    for (const listener of this.listeners) listener(message);
  }
}

class ServiceCard {
  constructor(model, known, root) {
    this.model = model;
    this.known = known;
    this.root = root;
    this.stopping = new Stopping(model, () => this.draw());
    this.choice = null; // the log that the reader chose; null follows the first replica
    this.build();
  }

  get service() {
    return this.model.get("service_state");
  }

  build() {
    this.sign = element("span", "dstack-sign", { "aria-hidden": "true" });
    this.word = element("span", "dstack-word");
    this.name = element("span", "dstack-name");
    this.clock = element("span", "dstack-clock");
    const { buttons, question, notice } = this.stopping;
    const chip = element("span", "dstack-chip", {}, this.sign, this.word);
    const head = element("div", "dstack-head", {}, this.name, chip, this.clock, buttons);
    this.status = element("div", "dstack-hidden", { role: "status", "aria-live": "polite" });
    this.addresses = element("div", "dstack-addresses");
    this.sentence = element("div", "dstack-sentence");
    this.traffic = element("dl", "dstack-traffic", { "aria-label": "Traffic" });
    this.buildPlots();
    this.buildReplicas();
    this.trial = new Trial(this.model, this.service);
    this.root.append(head, this.status, question, notice, this.sentence, this.addresses);
    this.root.append(this.traffic, this.plots, this.table, this.trial.box);
    this.buildOutput();
  }

  buildPlots() {
    const count = (value) => value.toLocaleString("en", { maximumFractionDigits: 1 });
    this.drawn = [
      new Plot("requests/s", (sample) => sample[1], count),
      new Plot("p95", (sample) => sample[2], secondsText),
      new Plot("in flight and held", (sample) => sample[3] + sample[4], count),
    ];
    this.plots = element("div", "dstack-plots", {}, ...this.drawn.map((plot) => plot.box));
  }

  buildReplicas() {
    const names = ["Replica", "State", "In flight", "Requests", "Errors", "Where", "Note"];
    const heads = names.map((name) => element("th", isNumber(name) ? "dstack-numeric" : "", { scope: "col" }, name));
    this.rows = element("tbody", "");
    const head = element("thead", "", {}, element("tr", "", {}, ...heads));
    const table = element("table", "", {}, element("caption", "dstack-hidden", {}, "Replicas"), head, this.rows);
    this.table = element("div", "dstack-replicas", { tabindex: "0", role: "region", "aria-label": "Replicas" }, table);
  }

  buildOutput() {
    this.select = element("select", "dstack-select", { "aria-label": "Output of" });
    this.select.addEventListener("change", () => {
      this.choice = this.select.value;
      this.showOutput();
    });
    this.view = new LogView(new Store().screen);
    this.bar = new LogBar(() => this.view, () => `${this.service.name}.log`);
    this.bar.box.prepend(this.select);
    this.root.append(this.bar.box, this.view.box);
  }

  // -- drawing

  draw() {
    const service = this.service;
    this.root.dataset.status = service.status;
    this.root.dataset.mood = service.mood;
    setText(this.name, service.name);
    setText(this.sign, service.sign);
    setText(this.word, service.word);
    setText(this.sentence, service.sentence);
    // Changed only when it changes, so that a screen reader speaks once.
    setText(this.status, `${service.name} is ${service.word}. ${service.sentence}`.trim());
    this.drawAddresses(service);
    this.drawTraffic(service.traffic);
    this.drawOutputs(service.logs);
    this.trial.draw(service);
    this.stopping.draw(service);
    this.tick();
  }

  drawAddresses(service) {
    const key = JSON.stringify([service.addresses, service.auth]);
    if (key === this.addressesKey) return;
    this.addressesKey = key;
    const rows = service.addresses.map(addressOf);
    if (rows.length && service.auth) {
      const command = element("code", "", {}, "dstack-jupyter token");
      const words = "Requests need the header Authorization: Bearer and your token; in a terminal, ";
      rows.push(element("div", "dstack-muted dstack-address", {}, element("span", "", {}, words, command, " prints it.")));
    }
    this.addresses.replaceChildren(...rows);
  }

  drawTraffic(traffic) {
    const key = JSON.stringify(traffic);
    if (key === this.trafficKey) return;
    this.trafficKey = key;
    const parts = traffic.map((one) => {
      const value = element("dd", one.stands_out ? "dstack-warn" : "", {}, one.text);
      return element("div", "", {}, element("dt", "dstack-muted", {}, one.label), value);
    });
    this.traffic.replaceChildren(...parts);
    this.traffic.hidden = this.plots.hidden = !traffic.length;
  }

  drawReplicas(replicas, now) {
    const left = (row) => (row.until === null ? null : Math.max(Math.ceil((row.until - now) / 1000), 0));
    const key = JSON.stringify([replicas, replicas.map(left)]);
    if (key === this.replicasKey) return;
    this.replicasKey = key;
    this.rows.replaceChildren(...replicas.map((row) => replicaOf(row, left(row))));
    this.table.hidden = !replicas.length;
    this.table.classList.toggle("dstack-plain", replicas.every((row) => !row.note && row.until === null));
  }

  drawOutputs(logs) {
    const key = JSON.stringify(logs);
    if (key !== this.logsKey) {
      this.logsKey = key;
      // A reader of replica 0 goes on with its next attempt.
      const before = this.labels?.find((one) => one.log === this.choice);
      if (before?.is_newest) this.choice = logs.find((one) => one.is_newest && one.replica === before.replica)?.log ?? this.choice;
      if (!logs.some((one) => one.log === this.choice)) this.choice = null;
      this.labels = logs;
      this.select.replaceChildren(...logs.map((one) => element("option", "", { value: one.log }, one.label)));
      this.select.hidden = logs.length < 2;
    }
    this.showOutput();
  }

  showOutput() {
    const log = this.choice ?? this.labels?.[0]?.log;
    if (log !== undefined) this.select.value = log;
    if (log === this.shown) return;
    this.shown = log;
    const box = this.view.box;
    this.view.dispose();
    this.view = new LogView(this.known.outputOf(log ?? "").screen);
    box.replaceWith(this.view.box);
    this.bar.dress();
    this.drawLines();
  }

  drawLines() {
    const store = this.known.outputOf(this.shown ?? "");
    this.view.refresh();
    this.bar.count(store.screen);
    this.root.classList.toggle("dstack-empty", store.at === 0);
  }

  tick() {
    const service = this.service;
    const { clock } = this.known;
    const now = service.ended_at ?? Math.max(clock.now(), service.now);
    const cost = service.cost + (service.ended_at ? 0 : (service.price * (now - service.now)) / 3_600_000);
    const parts = [durationText((now - service.submitted_at) / 1000), moneyText(cost)];
    if (service.price) parts.push(`${moneyText(service.price)}/h`);
    setText(this.clock, parts.join(" · "));
    this.drawReplicas(service.replicas, now);
    for (const plot of this.drawn) plot.draw(this.known.samples, now);
    const quiet = !service.final && clock.isQuiet();
    this.root.classList.toggle("dstack-quiet", quiet);
    this.stopping.listen(quiet, service.name);
  }

  heard(message) {
    if (message.type === "drawn" && message.log === this.shown) this.drawLines();
    if (message.type === "samples") this.tick();
    if (message.type === "stop-answer") this.stopping.answered(message);
    this.trial.hear(message);
  }
}

const isNumber = (name) => ["Replica", "In flight", "Requests", "Errors"].includes(name);

function addressOf(address) {
  const label = element("span", "dstack-muted", {}, `${address.label} `);
  let url = element("code", "", {}, address.url);
  if (address.opens && /^https?:\/\//.test(address.url)) {
    url = element("a", "dstack-port", { href: address.url, target: "_blank", rel: "noopener noreferrer" }, address.url, " ↗");
  }
  const copy = button("Copy", `Copy ${address.url}`, async () => {
    await navigator.clipboard.writeText(address.url);
    copy.textContent = "Copied";
    setTimeout(() => {
      copy.textContent = "Copy";
    }, 1500);
  });
  copy.setAttribute("aria-label", `Copy ${address.label}`);
  return element("div", "dstack-address", {}, label, url, copy);
}

function replicaOf(row, left) {
  const count = (value) => (value === null ? "–" : value.toLocaleString("en"));
  const sign = element("span", "dstack-sign", { "aria-hidden": "true" }, row.sign);
  const again = left === null ? "" : left > 0 ? `starts again in ${durationText(left)}` : "starts again now";
  const note = [row.note, again].filter(Boolean).join("; ");
  return element(
    "tr", "", { "data-mood": row.mood },
    element("th", "dstack-numeric", { scope: "row" }, String(row.number)),
    element("td", "dstack-state", {}, sign, " ", row.word),
    element("td", "dstack-numeric", {}, count(row.in_flight)),
    element("td", "dstack-numeric", {}, count(row.requests)),
    element("td", `dstack-numeric${row.errors ? " dstack-warn" : ""}`, {}, count(row.errors)),
    element("td", "dstack-where", {}, row.where || "–"),
    element("td", "dstack-note", {}, note),
  );
}

function initialize({ model }) {
  const known = new Knowledge();
  const key = model.get("key");
  knowledge.set(key, known);
  const take = (message, buffers) => known.take(message, buffers ?? []);
  model.on("msg:custom", take);
  model.send({ type: "hello", at: 0 });
  return () => {
    model.off("msg:custom", take);
    knowledge.delete(key);
  };
}

function render({ model, el }) {
  const known = knowledge.get(model.get("key"));
  const root = element("div", "dstack-card dstack-service", { "data-lm-suppress-shortcuts": "true" });
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", `Service ${model.get("service_state").name}`);
  el.append(root);
  const card = new ServiceCard(model, known, root);
  const draw = () => card.draw();
  const heard = (message) => card.heard(message);
  const unfollowTheme = followTheme(root);
  const slow = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const timer = setInterval(() => card.tick(), slow ? 10_000 : 1_000);
  model.on("change:service_state", draw);
  known.listeners.add(heard);
  draw();
  return () => {
    clearInterval(timer);
    unfollowTheme();
    model.off("change:service_state", draw);
    known.listeners.delete(heard);
    card.view.dispose();
  };
}

export default { initialize, render };
