import { Card, widgetOf } from "./card.js";
import { element, setText } from "./element.js";
import { Store } from "./store.js";

/** The card of one run. Its state comes in the trait `run`, its output in messages; see run.py. */

class RunCard extends Card {
  static trait = "run";
  static title = "Run";
  static className = "dstack-card";

  build() {
    this.steps = element("ol", "dstack-steps", { "aria-label": "Steps" });
    this.ports = element("div", "dstack-ports");
    this.usage = element("div", "dstack-usage");
    this.facts = element("div", "dstack-facts");
    this.root.append(this.steps, this.sentence, this.ports, this.usage, this.facts);
    this.buildOutput(this.known.screen);
    this.drawLines(this.known);
  }

  drawBody(run) {
    setText(this.facts, run.facts.join("\n"));
    this.fill(this.steps, run.steps, (steps) => steps.map(stepOf));
    this.fill(this.ports, run.ports, (ports) => ports.map(portOf));
    this.fill(this.usage, run.usage, (meters) => meters.map(meterOf));
  }

  heard(message) {
    super.heard(message);
    if (message.type === "drawn") this.drawLines(this.known);
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

export default widgetOf(RunCard, Store);
