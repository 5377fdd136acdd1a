import { durationText, moneyText } from "./amounts.js";
import { element, setText } from "./element.js";
import { LogBar } from "./logbar.js";
import { LogView } from "./logview.js";
import { Stopping } from "./stopping.js";
import { followTheme } from "./theme.js";

/**
 * What the cards of runs share: their head, Stop and Abort, an output, and a card's life on a page.
 * Times and costs tick here, from timestamps. run.js and service.js say what else is shown.
 */

export class Card {
  /**
   * Kinds of cards have a static `trait`, in which their state comes, `title` and `className`.
   * @param {import("./store.js").Store} known what the page knows of the model, for all its views
   */
  constructor(model, known, root) {
    this.model = model;
    this.known = known;
    this.root = root;
    this.keys = new Map();
    this.stopping = new Stopping(model, () => this.draw());
    this.sentence = element("div", "dstack-sentence");
    this.buildHead();
    this.build();
  }

  get state() {
    return this.model.get(this.constructor.trait);
  }

  /** The kernel's time in ms; once it has ended, the time of that. */
  get now() {
    return this.state.ended_at ?? Math.max(this.known.now(), this.state.now);
  }

  buildHead() {
    this.sign = element("span", "dstack-sign", { "aria-hidden": "true" });
    this.word = element("span", "dstack-word");
    this.name = element("span", "dstack-name");
    this.clock = element("span", "dstack-clock");
    const { buttons, question, notice } = this.stopping;
    const chip = element("span", "dstack-chip", {}, this.sign, this.word);
    const head = element("div", "dstack-head", {}, this.name, chip, this.clock, buttons);
    this.status = element("div", "dstack-hidden", { role: "status", "aria-live": "polite" });
    this.root.append(head, this.status, question, notice);
  }

  buildOutput(screen) {
    this.view = new LogView(screen);
    this.bar = new LogBar(() => this.view, () => `${this.state.name}.log`);
    this.root.append(this.bar.box, this.view.box);
  }

  // -- drawing

  draw() {
    const { status, name, sign, word, sentence } = this.state;
    this.root.dataset.status = status;
    setText(this.name, name);
    setText(this.sign, sign);
    setText(this.word, word);
    setText(this.sentence, sentence);
    // Changed only when it changes, so that a screen reader speaks once.
    setText(this.status, `${name} is ${word}. ${sentence}`.trim());
    this.drawBody(this.state);
    this.stopping.draw(this.state);
    this.tick();
  }

  /** Fill *node* with what *nodesOf* makes of *shown*, if that has changed. */
  fill(node, shown, nodesOf) {
    const key = JSON.stringify(shown);
    if (key === this.keys.get(node)) return;
    this.keys.set(node, key);
    node.replaceChildren(...nodesOf(shown));
  }

  drawLines(store) {
    this.view.refresh();
    this.bar.count(store.screen);
    this.root.classList.toggle("dstack-empty", store.at === 0);
  }

  tick() {
    const { state, now } = this;
    const cost = state.cost + (state.ended_at ? 0 : (state.price * (now - state.now)) / 3_600_000);
    const parts = [durationText((now - state.submitted_at) / 1000), moneyText(cost)];
    if (state.price) parts.push(`${moneyText(state.price)}/h`);
    setText(this.clock, parts.join(" · "));
    const quiet = !state.final && this.known.isQuiet();
    this.root.classList.toggle("dstack-quiet", quiet);
    this.stopping.listen(quiet, state.name);
  }

  heard(message) {
    if (message.type === "stop-answer") this.stopping.answered(message);
  }
}

/** Return what a front end calls for a kind of card; *Known* is made once for each model. */
export function widgetOf(Kind, Known) {
  const knowledge = new Map(); // outside of views, because each has its own proxy of the model

  function initialize({ model }) {
    const known = new Known();
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
    const root = element("div", Kind.className, { "data-lm-suppress-shortcuts": "true", role: "group" });
    root.setAttribute("aria-label", `${Kind.title} ${model.get(Kind.trait).name}`);
    el.append(root);
    const card = new Kind(model, known, root);
    const draw = () => card.draw();
    const heard = (message) => card.heard(message);
    const unfollowTheme = followTheme(root);
    const slow = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const timer = setInterval(() => card.tick(), slow ? 10_000 : 1_000);
    model.on(`change:${Kind.trait}`, draw);
    known.listeners.add(heard);
    draw();
    return () => {
      clearInterval(timer);
      unfollowTheme();
      model.off(`change:${Kind.trait}`, draw);
      known.listeners.delete(heard);
      card.view.dispose();
    };
  }

  return { initialize, render };
}
