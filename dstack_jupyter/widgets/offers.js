import { button, element, setText } from "./element.js";
import { followTheme } from "./theme.js";

/**
 * The offers of a plan as a table to choose from. Rows are sorted and filtered here; the choice
 * goes to the kernel as one message, and what becomes of it comes back in `state` and `message`.
 */

const COLUMNS = [
  { name: "#", of: (offer) => offer.number, numeric: true },
  { name: "Backend", of: (offer) => offer.backend },
  { name: "Region", of: (offer) => offer.region },
  { name: "Instance", of: (offer) => offer.instance },
  { name: "Resources", of: (offer) => offer.resources, compare: byPower },
  { name: "Spot", of: (offer) => (offer.spot ? "yes" : "no") },
  { name: "Price", of: (offer) => offer.price, text: (offer) => offer.price_text, numeric: true },
];
const PATIENCE = 2_500; // ms until a silent kernel is spoken of

function byPower(one, other) {
  const at = one.power.findIndex((value, index) => value !== other.power[index]);
  return at < 0 ? 0 : one.power[at] - other.power[at];
}

class Offers {
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.chosen = new Set(model.get("selected"));
    this.sort = { column: 0, down: false };
    this.sent = false;
    this.build();
  }

  build() {
    const offers = this.model.get("offers");
    this.status = element("div", "dstack-status", { role: "status", "aria-live": "polite" });
    if (offers.length) this.root.append(this.buildHead(offers), this.buildTable(offers));
    else this.root.append(element("div", "dstack-none", {}, this.model.get("summary")));
    const remarks = this.model.get("remarks");
    if (remarks.length) this.root.append(listOf(remarks, "dstack-remarks"));
    this.buildRefusals(!offers.length);
    this.submit = button("", "", () => this.send("submit"));
    this.submit.classList.add("dstack-primary");
    this.cancel = button("Cancel", "Submit nothing", () => this.send("cancel"));
    this.actions = element("div", "dstack-actions", {}, this.submit, this.cancel, this.status);
    this.root.append(this.actions);
  }

  buildHead(offers) {
    const input = element("input", "dstack-filter", { type: "search", placeholder: "e.g. H100 spot" });
    input.addEventListener("input", () => this.filter(input.value));
    const label = element("label", "", {}, "Filter ", input);
    this.count = element("span", "dstack-muted", { role: "status", "aria-live": "polite" });
    setText(this.count, this.model.get("summary"));
    label.hidden = offers.length < 4;
    return element("div", "dstack-tools", {}, label, this.count);
  }

  buildTable(offers) {
    const head = element("tr", "");
    head.append(element("th", "dstack-pick", { scope: "col" }, element("span", "dstack-hidden", {}, "Choose")));
    this.headings = COLUMNS.map((column, at) => this.buildHeading(column, at));
    head.append(...this.headings);
    this.rows = offers.map((offer) => ({ offer, node: this.buildRow(offer) }));
    this.body = element("tbody", "", {}, ...this.rows.map((row) => row.node));
    const caption = element("caption", "", {}, `Offers for ${this.model.get("title")}`);
    const table = element("table", "dstack-table", {}, caption, element("thead", "", {}, head), this.body);
    this.showSort();
    return element("div", "dstack-scroll", { tabindex: "0", role: "region", "aria-label": "Offers" }, table);
  }

  buildHeading(column, at) {
    const heading = element("th", column.numeric ? "dstack-numeric" : "", { scope: "col" });
    const sign = element("span", "dstack-sort", { "aria-hidden": "true" });
    const by = button(column.name, `Sort by ${column.name === "#" ? "rank" : column.name.toLowerCase()}`, () => this.sortBy(at));
    by.append(sign);
    heading.append(by);
    return heading;
  }

  buildRow(offer) {
    const box = element("input", "", { type: "checkbox" });
    box.setAttribute("aria-label", `Choose offer ${offer.number}: ${offer.backend} ${offer.resources} ${offer.price_text}`);
    box.checked = this.chosen.has(offer.id);
    const node = element("tr", "", {}, element("td", "dstack-pick", {}, box));
    for (const column of COLUMNS) {
      const text = String((column.text ?? column.of)(offer) || "–");
      const cell = element("td", column.numeric ? "dstack-numeric" : "", {}, text);
      if (column.name === "Resources") {
        for (const note of offer.notes) cell.append(element("div", "dstack-note", {}, note));
      }
      node.append(cell);
    }
    box.addEventListener("change", () => this.choose(offer.id, box.checked, node));
    node.addEventListener("click", (event) => {
      if (event.target !== box && !box.disabled && !getSelection()?.toString()) box.click();
    });
    node.classList.toggle("dstack-chosen", box.checked);
    return node;
  }

  buildRefusals(open) {
    const title = this.model.get("refused_title");
    if (!title) return;
    const details = element("details", "dstack-refusals", {}, element("summary", "", {}, title));
    details.append(listOf(this.model.get("refusals"), ""));
    details.open = open;
    this.root.append(details);
  }

  // -- sorting, filtering, choosing

  sortBy(at) {
    this.sort = { column: at, down: this.sort.column === at && !this.sort.down };
    const column = COLUMNS[at];
    const compare = column.compare ?? ((one, other) => ordered(column.of(one), column.of(other)));
    const sign = this.sort.down ? -1 : 1;
    this.rows.sort((one, other) => sign * compare(one.offer, other.offer) || one.offer.number - other.offer.number);
    this.body.append(...this.rows.map((row) => row.node));
    this.showSort();
  }

  showSort() {
    this.headings.forEach((heading, at) => {
      const sorted = at === this.sort.column;
      heading.setAttribute("aria-sort", !sorted ? "none" : this.sort.down ? "descending" : "ascending");
      setText(heading.querySelector(".dstack-sort"), !sorted ? "" : this.sort.down ? " ↓" : " ↑");
    });
  }

  filter(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { offer, node } of this.rows) {
      const has = `${offer.backend} ${offer.region} ${offer.instance} ${offer.resources} ${offer.spot ? "spot" : ""} ${offer.price_text}`.toLowerCase();
      node.hidden = !words.every((word) => has.includes(word));
      if (!node.hidden) shown += 1;
    }
    setText(this.count, words.length ? `${shown} of ${this.rows.length} offers` : this.model.get("summary"));
  }

  choose(id, on, node) {
    if (on) this.chosen.add(id);
    else this.chosen.delete(id);
    node.classList.toggle("dstack-chosen", on);
    this.model.set("selected", this.ids());
    this.model.save_changes();
    this.draw();
  }

  /** The chosen offers, the best first: the order in which they are tried. */
  ids() {
    return this.model.get("offers").map((offer) => offer.id).filter((id) => this.chosen.has(id));
  }

  send(type) {
    if (this.sent || !this.isOpen()) return;
    this.sent = true;
    this.model.send(type === "submit" ? { type, ids: this.ids() } : { type });
    setText(this.status, type === "submit" ? "Submitting …" : "Cancelling …");
    this.waiting = setTimeout(() => {
      setText(this.status, "The kernel has not answered yet: it is busy in another cell, or was restarted. Then run this cell again.");
    }, PATIENCE);
    this.draw();
  }

  isOpen() {
    return ["choosing", "failed"].includes(this.model.get("state"));
  }

  /** The kernel has said what became of the choice. */
  answered() {
    clearTimeout(this.waiting);
    this.sent = false;
    this.draw();
    setText(this.status, this.model.get("message"));
  }

  draw() {
    const state = this.model.get("state");
    const frozen = this.sent || !this.isOpen();
    const count = this.chosen.size;
    this.root.dataset.state = state;
    const offers = this.model.get("offers");
    this.submit.hidden = !offers.length;
    this.cancel.hidden = !offers.length;
    this.submit.disabled = frozen;
    this.cancel.disabled = frozen;
    const all = offers.length === 1 ? "Submit" : "Submit on any that fits";
    setText(this.submit, count ? `Submit on ${count === 1 ? "the chosen offer" : `the ${count} chosen`}` : all);
    for (const box of this.root.querySelectorAll("input[type=checkbox]")) box.disabled = frozen;
  }

  dispose() {
    clearTimeout(this.waiting);
  }
}

function ordered(one, other) {
  if (typeof one === "number") return one - other;
  return String(one).localeCompare(String(other), "en", { numeric: true });
}

function listOf(lines, className) {
  return element("ul", className, {}, ...lines.map((line) => element("li", "", {}, line)));
}

function render({ model, el }) {
  const root = element("div", "dstack-offers", { "data-lm-suppress-shortcuts": "true" });
  el.append(root);
  const view = new Offers(model, root);
  const answered = () => view.answered();
  const unfollowTheme = followTheme(root);
  model.on("change:state", answered);
  model.on("change:message", answered);
  view.draw();
  setText(view.status, model.get("message"));
  return () => {
    view.dispose();
    unfollowTheme();
    model.off("change:state", answered);
    model.off("change:message", answered);
  };
}

function initialize({ model }) {
  model.send({ type: "hello" });
}

export default { initialize, render };
