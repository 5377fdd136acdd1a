import { button, element, setText } from "./element.js";

/**
 * Stop and Abort, with the question before and the notice after. Stop goes over HTTP where it can,
 * because a kernel that is busy in another cell does not listen. Of the run it wants `name`, `id`,
 * `final`, `stopping`, `aborting`.
 */

const STOP_PATIENCE = 4_000; // ms

export class Stopping {
  constructor(model, redraw) {
    this.model = model;
    this.redraw = redraw;
    this.asked = false;
    this.wish = ""; // what was asked for and is not seen in the run yet: "stopping", "aborting"
    this.buttons = element("span", "dstack-buttons");
    this.question = element("div", "dstack-question", { role: "group", "aria-label": "Confirm", hidden: "" });
    this.notice = element("div", "dstack-notice", { hidden: "", role: "note" });
    this.stop = button("Stop", "Stop the run: it may finish what it is doing", () => this.ask(false));
    this.abort = button("Abort", "End the run at once", () => this.ask(true));
    this.buttons.append(this.stop, this.abort);
  }

  draw(run) {
    this.run = run;
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
  }

  say(text) {
    this.notice.hidden = !text;
    setText(this.notice, text);
  }

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
    this.redraw();
  }

  /** Say that the kernel is silent, and take it back when it speaks again. */
  listen(quiet, name) {
    if (quiet) {
      this.say(`Disconnected from the kernel — the run goes on; %dstack attach ${name} brings the card back.`);
      this.wasQuiet = true;
    } else if (this.wasQuiet) {
      this.wasQuiet = false;
      this.say("");
    }
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
