import { element, setText } from "./element.js";

/**
 * A small plot over the last five minutes: one quantity as a stepped line above its area. Drawn as
 * inline SVG, so that it takes the page's colours.
 */

const SPAN = 300_000; // ms
const WIDTH = 240;
const HEIGHT = 44;
const SVG = "http://www.w3.org/2000/svg";

export class Plot {
  /**
   * @param {string} label
   * @param {(sample: (number | null)[]) => number | null} valueOf what of a sample is drawn
   * @param {(value: number) => string} textOf
   */
  constructor(label, valueOf, textOf) {
    this.label = label;
    this.valueOf = valueOf;
    this.textOf = textOf;
    this.area = shape("path", { class: "dstack-area" });
    this.line = shape("path", { class: "dstack-line", "vector-effect": "non-scaling-stroke" });
    this.picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.picture.append(this.area, this.line);
    this.value = element("span", "dstack-value");
    const name = element("span", "dstack-muted", {}, label);
    this.caption = element("figcaption", "", {}, name, " ", this.value);
    this.box = element("figure", "dstack-plot", {}, this.caption, this.picture);
  }

  draw(samples, now) {
    const since = now - SPAN;
    const first = Math.max(samples.findIndex((sample) => sample[0] >= since) - 1, 0);
    const points = samples.slice(first).map((sample) => [sample[0], this.valueOf(sample)]);
    const known = points.map(([, value]) => value).filter((value) => value !== null);
    const top = Math.max(...known, 0);
    const last = points.length ? points[points.length - 1][1] : null;
    const scale = top > 0 ? (HEIGHT - 4) / top : 0;
    const x = (at) => (WIDTH * Math.max(at - since, 0)) / SPAN;
    const y = (value) => HEIGHT - 1 - value * scale;
    let line = "";
    let area = "";
    points.forEach(([at, value], index) => {
      if (value === null) return;
      const until = x(index + 1 < points.length ? points[index + 1][0] : now);
      const from = x(at);
      const joined = index > 0 && points[index - 1][1] !== null;
      line += `${joined ? "L" : "M"}${round(from)},${round(y(value))}H${round(until)}`;
      area += `M${round(from)},${HEIGHT}V${round(y(value))}H${round(until)}V${HEIGHT}Z`;
    });
    this.line.setAttribute("d", line);
    this.area.setAttribute("d", area);
    setText(this.value, last === null ? "–" : this.textOf(last));
    const most = known.length ? `at most ${this.textOf(top)}` : "nothing yet";
    this.picture.setAttribute("aria-label", `${this.label} over the last five minutes: ${most}`);
    this.box.title = `over the last five minutes, ${most}`;
  }
}

const round = (number) => Math.round(number * 10) / 10;

function shape(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}
