import { element } from "./element.js";
import { colourOf } from "./screen.js";

/**
 * Draws a LogScreen: chunks of lines that the browser lays out only when they are in sight, at
 * most once a frame. Follows the end until the reader scrolls up.
 */
export class LogView {
  /** @param {import("./screen.js").LogScreen} screen */
  constructor(screen) {
    this.screen = screen;
    this.drawn = new Map();
    this.following = true;
    this.lastTop = 0;
    this.frame = 0;
    this.box = element("div", "dstack-log", { tabindex: "0", role: "region", "aria-label": "Output" });
    this.box.setAttribute("data-jp-suppress-context-menu", "");
    this.earlier = element("div", "dstack-log-earlier", { hidden: "" });
    this.body = element("div", "dstack-log-body");
    this.box.append(this.earlier, this.body);
    this.box.addEventListener("scroll", () => this.scrolled());
    this.onFollow = () => {};
    this.resized = new ResizeObserver(() => this.toEnd());
    this.resized.observe(this.body);
  }

  /** Draw what has changed, in the next frame. */
  refresh() {
    // A hidden page has no frames; it is drawn when it is looked at again.
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  draw() {
    const chunks = this.screen.chunks;
    const alive = new Set(chunks);
    for (const [chunk, drawn] of this.drawn) {
      if (alive.has(chunk)) continue;
      drawn.node.remove();
      this.drawn.delete(chunk);
    }
    const last = chunks[chunks.length - 1];
    for (const chunk of chunks) {
      let drawn = this.drawn.get(chunk);
      if (!drawn) {
        drawn = { node: element("div", "dstack-log-chunk"), version: -1, last: false };
        this.drawn.set(chunk, drawn);
        this.body.append(drawn.node);
      }
      if (drawn.version === chunk.version && drawn.last === (chunk === last)) continue;
      this.drawChunk(chunk, drawn.node, chunk === last);
      drawn.version = chunk.version;
      drawn.last = chunk === last;
    }
    this.earlier.hidden = !this.screen.dropped;
    this.earlier.textContent = `… ${this.screen.dropped.toLocaleString("en")} earlier lines are not shown here`;
    this.box.dataset.lines = String(this.screen.count);
    this.toEnd();
  }

  drawChunk(chunk, node, isLast) {
    const parts = [];
    let text = "";
    chunk.lines.forEach((line, at) => {
      for (const [piece, look] of line.spans) {
        if (!look.key) {
          text += piece;
          continue;
        }
        if (text) parts.push(text);
        text = "";
        parts.push(spanOf(piece, look));
      }
      if (!(isLast && at === chunk.lines.length - 1)) text += "\n";
    });
    if (text) parts.push(text);
    node.replaceChildren(...parts);
    node.style.containIntrinsicBlockSize = `auto ${(chunk.lines.length * 1.45).toFixed(2)}em`;
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.box;
    const atEnd = scrollHeight - scrollTop - clientHeight < 24;
    if (atEnd) this.follow(true);
    else if (scrollTop < this.lastTop - 1) this.follow(false);
    this.lastTop = scrollTop;
  }

  follow(on) {
    if (on === this.following) return;
    this.following = on;
    this.onFollow(on);
    if (on) this.toEnd();
  }

  toEnd() {
    if (!this.following) return;
    this.box.scrollTop = this.box.scrollHeight;
    this.lastTop = this.box.scrollTop;
  }

  dispose() {
    cancelAnimationFrame(this.frame);
    this.resized.disconnect();
  }
}

function spanOf(text, look) {
  const node = element("span", "");
  node.textContent = text;
  let front = look.front === undefined ? null : colourOf(look.front);
  let back = look.back === undefined ? null : colourOf(look.back);
  if (look.inverse) [front, back] = [back ?? "var(--dstack-back)", front ?? "var(--dstack-front)"];
  if (front) node.style.color = front;
  if (back) node.style.backgroundColor = back;
  if (look.bold) node.style.fontWeight = "bold";
  if (look.dim) node.style.opacity = "0.7";
  if (look.italic) node.style.fontStyle = "italic";
  const lines = [look.underline && "underline", look.strike && "line-through"].filter(Boolean);
  if (lines.length) node.style.textDecoration = lines.join(" ");
  return node;
}
