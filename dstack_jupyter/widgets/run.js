import { durationText, moneyText } from "./amounts.js";
import { element, setText } from "./element.js";
import { LogBar } from "./logbar.js";
import { LogView } from "./logview.js";
import { Stopping } from "./stopping.js";
import { Store } from "./store.js";
import { followTheme } from "./theme.js";

/**
 * The card of one run. Its state comes in the trait `run`, its output in messages; see run.py.
 * Times and costs tick here, from timestamps.
 */

/** What is known of a model, for all its views: module state, because each view has its own proxy. */
const stores = new Map();

class Card {
  constructor(model, store, root) {
    this.model = model;
    this.store = store;
    this.root = root;
    this.stopping = new Stopping(model, () => this.draw());
    this.build();
  }

  get run() {
    return this.model.get("run");
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
    this.steps = element("ol", "dstack-steps", { "aria-label": "Steps" });
    this.sentence = element("div", "dstack-sentence");
    this.ports = element("div", "dstack-ports");
    this.usage = element("div", "dstack-usage");
    this.facts = element("div", "dstack-facts");
    this.view = new LogView(this.store.screen);
    this.bar = new LogBar(() => this.view, () => `${this.run.name}.log`);
    this.root.append(head, this.status, question, notice, this.steps, this.sentence);
    this.root.append(this.ports, this.usage, this.facts, this.bar.box, this.view.box);
  }

  // -- drawing

  draw() {
    const run = this.run;
    this.root.dataset.status = run.status;
    setText(this.name, run.name);
    setText(this.sign, run.sign);
    setText(this.word, run.word);
    setText(this.sentence, run.sentence);
    setText(this.facts, run.facts.join("\n"));
    // Changed only when it changes, so that a screen reader speaks once.
    setText(this.status, `${run.name} is ${run.word}. ${run.sentence}`.trim());
    this.drawSteps(run.steps);
    this.drawPorts(run.ports);
    this.drawUsage(run.usage);
    this.stopping.draw(run);
    this.tick();
  }

  drawSteps(steps) {
    const key = JSON.stringify(steps);
    if (key === this.stepsKey) return;
    this.stepsKey = key;
    this.steps.replaceChildren(...steps.map(stepOf));
  }

  drawPorts(ports) {
    const key = JSON.stringify(ports);
    if (key === this.portsKey) return;
    this.portsKey = key;
    this.ports.replaceChildren(...ports.map(portOf));
  }

  drawUsage(meters) {
    const key = JSON.stringify(meters);
    if (key === this.usageKey) return;
    this.usageKey = key;
    this.usage.replaceChildren(...meters.map(meterOf));
  }

  tick() {
    const run = this.run;
    const now = run.ended_at ?? Math.max(this.store.now(), run.now);
    const parts = [durationText((now - run.submitted_at) / 1000)];
    const cost = run.cost + (run.ended_at ? 0 : (run.price * (now - run.now)) / 3_600_000);
    parts.push(moneyText(cost));
    if (run.price) parts.push(`${moneyText(run.price)}/h`);
    setText(this.clock, parts.join(" · "));
    const quiet = !run.final && this.store.isQuiet();
    this.root.classList.toggle("dstack-quiet", quiet);
    this.stopping.listen(quiet, run.name);
  }

  heard(message) {
    if (message.type === "drawn") {
      this.view.refresh();
      this.bar.count(this.store.screen);
      this.root.classList.toggle("dstack-empty", this.store.at === 0);
    }
    if (message.type === "stop-answer") this.stopping.answered(message);
  }
}

function stepOf(step) {
  const words = { done: "done", current: "now", ahead: "to come", skipped: "left out" };
  const node = element("li", `dstack-step dstack-${step.state}`);
  if (step.state === "current") node.setAttribute("aria-current", "step");
  const dot = element("span", "dstack-dot", { "aria-hidden": "true" });
  const label = element("span", "dstack-label", {}, step.label);
  const hidden = element("span", "dstack-hidden", {}, ` (${words[step.state]})`);
  const at = element("span", "dstack-at", {}, step.text || (step.at ? clockText(step.at) : ""));
  if (step.at) at.title = new Date(step.at).toLocaleString();
  node.append(dot, label, hidden, at);
  if (step.fraction !== null && step.state === "current") {
    node.append(element("progress", "", { max: "1", value: String(step.fraction), "aria-label": step.label }));
  }
  return node;
}

function portOf(port) {
  const label = `port ${port.port}`;
  if (!/^https?:\/\//.test(port.url)) return element("span", "", {}, `${label}: ${port.url}`);
  const link = element("a", "dstack-port", { href: port.url, target: "_blank", rel: "noopener noreferrer" });
  link.append(element("span", "dstack-muted", {}, `${label} `), port.url.replace(/^https?:\/\//, ""), " ↗");
  return link;
}

function meterOf(meter) {
  const node = element("span", "dstack-meter", {}, element("span", "dstack-muted", {}, meter.label), ` ${meter.text}`);
  if (meter.fraction !== null) {
    const bar = element("span", "dstack-meter-bar", { "aria-hidden": "true" }, element("span", ""));
    bar.firstChild.style.width = `${Math.min(Math.max(meter.fraction, 0), 1) * 100}%`;
    node.append(bar);
  }
  return node;
}

const clockText = (at) => new Date(at).toLocaleTimeString("en-GB");

function initialize({ model }) {
  const store = new Store();
  const key = model.get("key");
  stores.set(key, store);
  const take = (message, buffers) => store.take(message, buffers ?? []);
  model.on("msg:custom", take);
  model.send({ type: "hello", at: 0 });
  return () => {
    model.off("msg:custom", take);
    stores.delete(key);
  };
}

function render({ model, el }) {
  const store = stores.get(model.get("key"));
  const root = element("div", "dstack-card", { "data-lm-suppress-shortcuts": "true" });
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", `Run ${model.get("run").name}`);
  el.append(root);
  const card = new Card(model, store, root);
  const draw = () => card.draw();
  const heard = (message) => card.heard(message);
  const unfollowTheme = followTheme(root);
  const slow = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const timer = setInterval(() => card.tick(), slow ? 10_000 : 1_000);
  model.on("change:run", draw);
  store.listeners.add(heard);
  draw();
  heard({ type: "drawn" });
  return () => {
    clearInterval(timer);
    unfollowTheme();
    model.off("change:run", draw);
    store.listeners.delete(heard);
    card.view.dispose();
  };
}

export default { initialize, render };
