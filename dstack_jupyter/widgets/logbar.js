import { button, copyButton, element, setText } from "./element.js";

/** The line above an output: how many lines there are, following, wrapping, copying, downloading. */
export class LogBar {
  /**
   * @param {() => import("./logview.js").LogView} view the one that is shown now
   * @param {() => string} fileName for a download
   */
  constructor(view, fileName) {
    this.view = view;
    this.fileName = fileName;
    this.wrapped = true;
    this.lines = element("span", "dstack-lines");
    this.follow = button("↓ Follow", "Go to the end and follow it", () => this.view().follow(true));
    this.follow.hidden = true;
    const copy = copyButton("Copy all output", () => this.view().screen.text);
    const save = button("Download", "Download all output", () => this.download());
    this.wrap = button("Wrap", "Wrap long lines", () => {
      this.wrapped = !this.wrapped;
      this.dress();
    });
    this.box = element("div", "dstack-bar", {}, this.lines, this.follow, this.wrap, copy, save);
    this.dress();
  }

  /** Serve the view that is shown now. */
  dress() {
    const view = this.view();
    this.wrap.setAttribute("aria-pressed", String(this.wrapped));
    view.box.classList.toggle("dstack-nowrap", !this.wrapped);
    this.follow.hidden = view.following;
    view.onFollow = (on) => {
      this.follow.hidden = on;
    };
  }

  /** Say how many lines there are. */
  count(screen) {
    const count = screen.dropped + screen.count - (screen.column ? 0 : 1);
    setText(this.lines, count < 1 ? "No output yet" : count === 1 ? "1 line" : `${count.toLocaleString("en")} lines`);
  }

  download() {
    const url = URL.createObjectURL(new Blob([`${this.view().screen.text}\n`], { type: "text/plain" }));
    element("a", "", { href: url, download: this.fileName() }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }
}
