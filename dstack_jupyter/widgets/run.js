import { button, element, setText } from "./element.js";
import { LogView } from "./logview.js";
import { Store } from "./store.js";
import { followTheme } from "./theme.js";

/**
 * The card of one run. Its state comes in the trait `run`, its output in messages; see run.py.
 * Times and costs tick here, from timestamps. Stop goes over HTTP where it can, because a kernel
 * that is busy in another cell does not listen.
 */

const STOP_PATIENCE = 4_000; // ms

/** What is known of a model, for all its views: module state, because each view has its own proxy. */
const stores = new Map();

class Card {
  constructor(model, store, root) {
    this.model = model;
    this.store = store;
    this.root = root;
    this.asked = false;
    this.wish = ""; // what was asked for and is not seen in the run yet: "stopping", "aborting"
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
    this.buttons = element("span", "dstack-buttons");
    const chip = element("span", "dstack-chip", {}, this.sign, this.word);
    const head = element("div", "dstack-head", {}, this.name, chip, this.clock, this.buttons);
    this.status = element("div", "dstack-hidden", { role: "status", "aria-live": "polite" });
    this.question = element("div", "dstack-question", { role: "group", "aria-label": "Confirm", hidden: "" });
    this.notice = element("div", "dstack-notice", { hidden: "", role: "note" });
    this.steps = element("ol", "dstack-steps", { "aria-label": "Steps" });
    this.sentence = element("div", "dstack-sentence");
    this.ports = element("div", "dstack-ports");
    this.usage = element("div", "dstack-usage");
    this.facts = element("div", "dstack-facts");
    this.view = new LogView(this.store.screen);
    this.bar = this.buildBar();
    this.root.append(head, this.status, this.question, this.notice, this.steps, this.sentence);
    this.root.append(this.ports, this.usage, this.facts, this.bar, this.view.box);
    this.buildButtons();
  }

  buildBar() {
    this.lines = element("span", "dstack-lines");
    const follow = button("↓ Follow", "Go to the end and follow it", () => this.view.follow(true));
    follow.hidden = true;
    this.view.onFollow = (on) => {
      follow.hidden = on;
    };
    const copy = button("Copy", "Copy all output", () => this.copy(copy));
    const save = button("Download", "Download all output", () => this.download());
    const wrap = button("Wrap", "Wrap long lines", () => {
      const on = wrap.getAttribute("aria-pressed") !== "true";
      wrap.setAttribute("aria-pressed", String(on));
      this.view.box.classList.toggle("dstack-nowrap", !on);
    });
    wrap.setAttribute("aria-pressed", "true");
    return element("div", "dstack-bar", {}, this.lines, follow, wrap, copy, save);
  }

  buildButtons() {
    this.stop = button("Stop", "Stop the run: it may finish what it is doing", () => this.ask(false));
    this.abort = button("Abort", "End the run at once", () => this.ask(true));
    this.buttons.append(this.stop, this.abort);
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
    this.stop.disabled = run.final || this.asked || run.stopping;
    this.abort.disabled = run.final || run.aborting;
    if (run[this.wish]) {
      this.wish = "";
      this.question.hidden = true;
      this.say("");
    }
    if (run.final) {
      this.question.hidden = true;
      this.buttons.hidden = true;
      this.say("");
    }
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
    if (quiet) {
      this.say(`Disconnected from the kernel — the run goes on; %dstack attach ${run.name} brings the card back.`);
      this.wasQuiet = true;
    } else if (this.wasQuiet) {
      this.wasQuiet = false;
      this.say("");
    }
  }

  heard(message) {
    if (message.type === "drawn") {
      this.view.refresh();
      const count = this.store.screen.dropped + this.store.screen.count - (this.store.screen.column ? 0 : 1);
      setText(this.lines, count < 1 ? "No output yet" : count === 1 ? "1 line" : `${count.toLocaleString("en")} lines`);
      this.root.classList.toggle("dstack-empty", this.store.at === 0);
    }
    if (message.type === "stop-answer") this.answered(message);
  }

  say(text) {
    this.notice.hidden = !text;
    setText(this.notice, text);
  }

  // -- stopping

  ask(abort) {
    const words = abort ? "Abort at once?" : "Stop the run?";
    const yes = button(abort ? "Yes, abort" : "Yes, stop", "", () => this.confirmed(abort));
    yes.classList.add("dstack-danger");
    const no = button("Keep it running", "", () => this.unask());
    this.question.replaceChildren(element("span", "", {}, words), yes, no);
    this.question.hidden = false;
    this.question.onkeydown = (event) => event.key === "Escape" && this.unask();
    this.asker = abort ? this.abort : this.stop;
    yes.focus();
  }

  unask() {
    this.question.hidden = true;
    this.asker?.focus();
  }

  async confirmed(abort) {
    this.wish = abort ? "aborting" : "stopping";
    this.question.replaceChildren(element("span", "", {}, abort ? "Aborting …" : "Stopping …"));
    this.asked = true;
    this.stop.disabled = true;
    this.abort.disabled = abort;
    if (await stopOverHttp(this.run, abort)) return;
    this.question.hidden = true;
    this.model.send({ type: "stop", abort });
    this.say("Asked the kernel to stop it; a kernel that is busy answers when its cell has ended.");
  }

  answered(message) {
    this.asked = message.ok;
    this.say(message.text);
    this.draw();
  }

  // -- output

  async copy(source) {
    await navigator.clipboard.writeText(this.store.screen.text);
    source.textContent = "Copied";
    setTimeout(() => {
      source.textContent = "Copy";
    }, 1500);
  }

  download() {
    const url = URL.createObjectURL(new Blob([`${this.store.screen.text}\n`], { type: "text/plain" }));
    element("a", "", { href: url, download: `${this.run.name}.log` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }
}

/** Ask the Jupyter server, which is there even when the kernel is busy. */
export async function stopOverHttp(run, abort) {
  const page = pageConfig();
  if (!page) return false;
  const path = `dstack-jupyter/runs/${encodeURIComponent(run.name)}/stop`;
  const url = new URL(page.baseUrl.replace(/\/*$/, "/") + path, location.href);
  if (url.origin !== location.origin) return false;
  const headers = { "Content-Type": "application/json" };
  const xsrf = /(?:^|;\s*)_xsrf=([^;]*)/.exec(document.cookie);
  if (xsrf) headers["X-XSRFToken"] = decodeURIComponent(xsrf[1]);
  if (page.token) headers.Authorization = `token ${page.token}`;
  const body = JSON.stringify({ abort, id: run.id });
  try {
    const signal = AbortSignal.timeout(STOP_PATIENCE);
    return (await fetch(url, { method: "POST", headers, body, signal, credentials: "same-origin" })).ok;
  } catch {
    return false;
  }
}

function pageConfig() {
  try {
    const config = JSON.parse(document.getElementById("jupyter-config-data").textContent);
    return typeof config.baseUrl === "string" ? config : null;
  } catch {
    return null; // no Jupyter page: VS Code and others
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

export function durationText(seconds) {
  const whole = Math.max(Math.floor(seconds), 0);
  for (const [unit, size, nextUnit, nextSize] of [["d", 86400, "h", 3600], ["h", 3600, "m", 60], ["m", 60, "s", 1]]) {
    if (whole < size) continue;
    const rest = Math.floor((whole % size) / nextSize);
    return `${Math.floor(whole / size)}${unit}${rest ? ` ${rest}${nextUnit}` : ""}`;
  }
  return `${whole}s`;
}

export function moneyText(dollars) {
  if (dollars === 0) return "$0";
  if (dollars < 0.0001) return "<$0.0001";
  return dollars < 0.01 ? `$${Number(dollars.toPrecision(2))}` : `$${dollars.toFixed(2)}`;
}

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
