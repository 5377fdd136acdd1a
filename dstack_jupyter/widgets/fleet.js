import { button, copyButton, element, setText } from "./element.js";
import { followTheme } from "./theme.js";

/**
 * The card of a fleet: a part for each machine with what was looked at, and what mends it to copy.
 * Its state comes in the trait `fleet`; a wish to look again goes as a message. See fleet.py.
 */

const WORDS = { "✓": "well", "✗": "in the way", "!": "worth knowing" };
const PATIENCE = 2_500; // ms until a silent kernel is spoken of

class FleetCard {
  constructor(model, root) {
    this.model = model;
    this.parts = new Map(); // machine's name → its node, and what that shows
    this.sentence = element("span", "dstack-sentence");
    this.again = button("Look again", "Look into the machines now", () => this.examine());
    this.status = element("span", "dstack-status", { role: "status", "aria-live": "polite" });
    const name = element("span", "dstack-name", {}, model.get("fleet").name);
    const head = element("div", "dstack-head", {}, name, this.sentence, this.again);
    this.list = element("ul", "dstack-machines", { "aria-label": "Machines" });
    this.spoken = element("div", "dstack-hidden", { role: "status", "aria-live": "polite" });
    root.append(head, this.status, this.spoken, this.list);
  }

  draw() {
    const fleet = this.model.get("fleet");
    setText(this.sentence, fleet.sentence);
    // Changed only when it changes, so that a screen reader speaks once.
    setText(this.spoken, `${fleet.name}: ${fleet.sentence}`);
    this.again.hidden = !fleet.troubled;
    this.drawMachines(fleet.machines);
  }

  /** Only what has changed gets another node, so that the reader's place elsewhere is kept. */
  drawMachines(machines) {
    const gone = new Map(this.parts);
    machines.forEach((machine, at) => {
      const shown = JSON.stringify(machine);
      const known = this.parts.get(machine.name);
      gone.delete(machine.name);
      if (known?.shown === shown) return;
      const node = machineOf(machine);
      if (known) known.node.replaceWith(node);
      else this.list.insertBefore(node, this.list.children[at] ?? null);
      this.parts.set(machine.name, { shown, node });
    });
    gone.forEach(({ node }, name) => {
      node.remove();
      this.parts.delete(name);
    });
  }

  examine() {
    this.model.send({ type: "examine" });
    this.say("Asked to look again …");
    this.waiting = setTimeout(() => {
      this.say("The kernel has not answered yet: it is busy in another cell, or was restarted.");
    }, PATIENCE);
  }

  say(text) {
    clearTimeout(this.waiting);
    setText(this.status, text);
  }
}

function machineOf(machine) {
  const chip = element("span", "dstack-chip", {}, element("span", "", { "aria-hidden": "true" }, machine.sign), " ", machine.word);
  const head = element("div", "dstack-machine-head", {}, element("span", "dstack-machine-name", {}, machine.name));
  head.append(element("span", "dstack-muted", {}, machine.host), chip);
  const node = element("li", "dstack-machine", { "data-word": machine.word }, head);
  for (const fact of machine.facts) node.append(element("div", "dstack-muted", {}, fact));
  if (machine.checks.length) {
    const checks = machine.checks.map((check) => checkOf(machine, check));
    node.append(element("ul", "dstack-checks", { "aria-label": `Checks of ${machine.name}` }, ...checks));
  }
  return node;
}

function checkOf(machine, check) {
  const word = WORDS[check.mark];
  const mark = element("span", "dstack-mark", { "aria-hidden": "true" }, check.mark);
  const hidden = element("span", "dstack-hidden", {}, `${word}: `);
  const subject = element("b", "", {}, check.subject);
  const node = element("li", "dstack-check", { "data-word": word }, mark, hidden, subject, `: ${check.text}`);
  if (check.fix) {
    const copy = copyButton("Copy what mends it", () => check.fix);
    copy.setAttribute("aria-label", `Copy what mends ${check.subject} on ${machine.name}`);
    node.append(element("div", "dstack-fix", {}, element("code", "", {}, check.fix), copy));
  }
  return node;
}

function render({ model, el }) {
  const root = element("div", "dstack-fleet", { "data-lm-suppress-shortcuts": "true", role: "group" });
  root.setAttribute("aria-label", `Fleet ${model.get("fleet").name}`);
  el.append(root);
  const card = new FleetCard(model, root);
  const changed = () => {
    card.say("");
    card.draw();
  };
  const told = () => card.say(model.get("message"));
  const unfollowTheme = followTheme(root);
  model.on("change:fleet", changed);
  model.on("change:message", told);
  card.draw();
  return () => {
    clearTimeout(card.waiting);
    unfollowTheme();
    model.off("change:fleet", changed);
    model.off("change:message", told);
  };
}

function initialize({ model }) {
  model.send({ type: "hello" });
}

export default { initialize, render };
