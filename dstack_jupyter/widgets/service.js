import { durationText, secondsText } from "./amounts.js";
import { Card, widgetOf } from "./card.js";
import { copyButton, element } from "./element.js";
import { LogView } from "./logview.js";
import { Plot } from "./plot.js";
import { Store } from "./store.js";
import { Trial } from "./trial.js";

/**
 * The card of one service. Its state comes in the trait `service_state`; output, samples of the
 * traffic and answers of the try-it box come in messages; see service.py.
 */

const KEPT = 300; // samples: five minutes of one a second

/** The kernel's clock, the replicas' outputs, and the traffic of the last minutes. */
class Knowledge extends Store {
  constructor() {
    super();
    this.outputs = new Map();
    this.samples = [];
  }

  take(message, buffers) {
    if (message.type === "samples") {
      this.samples = [...(message.all ? [] : this.samples), ...message.samples].slice(-KEPT);
    }
    if (message.log === undefined) {
      super.take(message, buffers);
      return;
    }
    this.heard = Date.now();
    this.outputOf(message.log).take(message, buffers);
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
}

class ServiceCard extends Card {
  static trait = "service_state";
  static title = "Service";
  static className = "dstack-card dstack-service";

  build() {
    this.choice = null; // the log that the reader chose; null follows the first replica
    this.addresses = element("div", "dstack-addresses");
    this.traffic = element("dl", "dstack-traffic", { "aria-label": "Traffic" });
    this.buildPlots();
    this.buildReplicas();
    this.trial = new Trial(this.model, this.state);
    this.root.append(this.sentence, this.addresses, this.traffic, this.plots, this.table, this.trial.box);
    this.buildSelect();
    this.buildOutput(this.known.screen);
    this.bar.box.prepend(this.select);
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

  buildSelect() {
    this.select = element("select", "dstack-select", { "aria-label": "Output of" });
    this.select.addEventListener("change", () => {
      this.choice = this.select.value;
      this.showOutput();
    });
  }

  // -- drawing

  drawBody(service) {
    this.root.dataset.mood = service.mood;
    this.fill(this.addresses, [service.addresses, service.auth], addressNodes);
    this.fill(this.traffic, service.traffic, (traffic) => traffic.map(measureOf));
    this.traffic.hidden = this.plots.hidden = !service.traffic.length;
    this.drawOutputs(service.logs);
    this.trial.draw(service);
  }

  drawReplicas(replicas, now) {
    const secondsTo = (at) => (at === null ? null : Math.max(Math.ceil((at - now) / 1000), 0));
    const rows = replicas.map((row) => ({ ...row, left: secondsTo(row.until) }));
    this.fill(this.rows, rows, () => rows.map(replicaOf));
    this.table.hidden = !rows.length;
    this.table.classList.toggle("dstack-plain", rows.every((row) => !row.note && row.left === null));
  }

  drawOutputs(logs) {
    // A reader of replica 0 goes on with its next attempt.
    const before = this.labels?.find((one) => one.log === this.choice);
    if (before?.is_newest) this.choice = logs.find((one) => one.is_newest && one.replica === before.replica)?.log ?? this.choice;
    if (!logs.some((one) => one.log === this.choice)) this.choice = null;
    this.labels = logs;
    this.fill(this.select, logs, () => logs.map((one) => element("option", "", { value: one.log }, one.label)));
    this.select.hidden = logs.length < 2;
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
    this.drawShown();
  }

  drawShown() {
    this.drawLines(this.known.outputOf(this.shown ?? ""));
  }

  tick() {
    super.tick();
    const { now } = this;
    this.drawReplicas(this.state.replicas, now);
    for (const plot of this.drawn) plot.draw(this.known.samples, now);
  }

  heard(message) {
    super.heard(message);
    if (message.type === "drawn" && message.log === this.shown) this.drawShown();
    if (message.type === "samples") this.tick();
    this.trial.hear(message);
  }
}

const isNumber = (name) => ["Replica", "In flight", "Requests", "Errors"].includes(name);

function addressNodes([addresses, auth]) {
  const rows = addresses.map(addressOf);
  if (rows.length && auth) {
    const command = element("code", "", {}, "dstack-jupyter token");
    const words = "Requests need the header Authorization: Bearer and your token; in a terminal, ";
    rows.push(element("div", "dstack-muted dstack-address", {}, element("span", "", {}, words, command, " prints it.")));
  }
  return rows;
}

function addressOf(address) {
  const label = element("span", "dstack-muted", {}, `${address.label} `);
  let url = element("code", "", {}, address.url);
  if (address.opens && /^https?:\/\//.test(address.url)) {
    url = element("a", "dstack-port", { href: address.url, target: "_blank", rel: "noopener noreferrer" }, address.url, " ↗");
  }
  const copy = copyButton(`Copy ${address.url}`, () => address.url);
  copy.setAttribute("aria-label", `Copy ${address.label}`);
  return element("div", "dstack-address", {}, label, url, copy);
}

function measureOf(measure) {
  const value = element("dd", measure.stands_out ? "dstack-warn" : "", {}, measure.text);
  return element("div", "", {}, element("dt", "dstack-muted", {}, measure.label), value);
}

function replicaOf(row) {
  const count = (value) => (value === null ? "–" : value.toLocaleString("en"));
  const sign = element("span", "dstack-sign", { "aria-hidden": "true" }, row.sign);
  const again = row.left === null ? "" : row.left > 0 ? `starts again in ${durationText(row.left)}` : "starts again now";
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

export default widgetOf(ServiceCard, Knowledge);
