import { secondsText } from "./amounts.js";
import { button, element, setText } from "./element.js";

/**
 * The try-it box: a chat with a service's model, or a GET of one of its paths. The page asks the
 * kernel, which holds the token and knows the way. Answers are shown as text, never as markup.
 */

const PATIENCE = 3_000; // ms until a kernel that says nothing is spoken of
const MAX_SHOWN = 200_000; // characters of one answer

class Asking {
  constructor(model) {
    this.model = model;
    this.id = "";
    this.state = element("div", "dstack-muted dstack-trial-state", { role: "status", "aria-live": "polite" });
    this.halt = button("Stop answering", "Do not wait for more of the answer", () => {
      this.model.send({ type: "try-stop", id: this.id });
    });
    this.halt.hidden = true;
  }

  ask(content, onEnd) {
    this.id = Array.from(crypto.getRandomValues(new Uint32Array(3)), (part) => part.toString(36)).join("");
    this.onEnd = onEnd;
    this.halt.hidden = false;
    this.asked = performance.now();
    setText(this.state, "Asking …");
    this.model.send({ ...content, id: this.id });
    this.timer = setTimeout(() => {
      setText(this.state, "The kernel has not answered yet; one that is busy does when its cell has ended.");
    }, PATIENCE);
  }

  get busy() {
    return this.id !== "";
  }

  hear(message) {
    clearTimeout(this.timer);
    if (message.type === "try-begun") setText(this.state, "Waiting for the answer …");
    if (message.type !== "try-end") return;
    this.id = "";
    this.halt.hidden = true;
    setText(this.state, message.error || "");
    this.state.classList.toggle("dstack-bad", Boolean(message.error) && message.error !== "Stopped.");
    this.onEnd(message);
  }
}

/** A conversation with the service's model. */
class Chat {
  constructor(model) {
    this.asking = new Asking(model);
    this.said = [];
    this.talk = element("div", "dstack-talk", { role: "log", "aria-label": "Conversation", tabindex: "0", hidden: "" });
    this.text = element("textarea", "dstack-input", { rows: "2", "aria-label": "Message to the model", placeholder: "Ask the model …" });
    this.send = button("Send", "Send the message (Enter; Shift-Enter begins a new line)", () => this.ask());
    this.send.classList.add("dstack-primary");
    this.anew = button("New chat", "Forget this conversation", () => this.forget());
    this.anew.hidden = true;
    this.text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.ask();
    });
    const line = element("div", "dstack-trial-line", {}, this.text, this.send, this.asking.halt, this.anew);
    this.box = element("div", "", {}, this.talk, line, this.asking.state);
  }

  ask() {
    const text = this.text.value.trim();
    if (!text || this.asking.busy) return;
    this.text.value = "";
    this.said.push({ role: "user", content: text });
    this.show("dstack-mine", "You", text);
    this.answer = this.show("dstack-theirs", "Model", "");
    this.heard = "";
    this.send.disabled = true;
    this.asking.ask({ type: "try-chat", messages: this.said }, (message) => this.ended(message));
  }

  show(className, who, text) {
    const words = element("div", "dstack-words", {}, text);
    this.talk.append(element("div", `dstack-turn ${className}`, {}, element("span", "dstack-muted", {}, who), words));
    this.talk.hidden = false;
    this.talk.scrollTop = this.talk.scrollHeight;
    return words;
  }

  hear(message) {
    this.asking.hear(message);
    if (message.type !== "try-piece") return;
    setText(this.asking.state, "");
    const { scrollTop, scrollHeight, clientHeight } = this.talk;
    const atEnd = scrollHeight - scrollTop - clientHeight < 24;
    this.heard += message.text;
    if (this.answer.textContent.length < MAX_SHOWN) this.answer.append(message.text);
    if (atEnd) this.talk.scrollTop = this.talk.scrollHeight;
  }

  ended(message) {
    this.send.disabled = false;
    this.anew.hidden = false;
    if (this.heard) {
      this.said.push({ role: "assistant", content: this.heard });
    } else {
      this.said.pop();
      this.answer.parentElement.remove();
      if (!message.error) setText(this.asking.state, "The model answered nothing.");
    }
    this.text.focus({ preventScroll: true });
  }

  forget() {
    if (this.asking.busy) return;
    this.said = [];
    this.talk.replaceChildren();
    this.talk.hidden = true;
    this.anew.hidden = true;
    setText(this.asking.state, "");
  }
}

/** A GET of one of the service's paths. */
class Get {
  constructor(model) {
    this.asking = new Asking(model);
    this.path = element("input", "dstack-input", { type: "text", value: "/", "aria-label": "Path", spellcheck: "false", autocomplete: "off" });
    this.path.value = "/";
    this.send = button("GET", "Ask for this path, with the token", () => this.ask());
    this.send.classList.add("dstack-primary");
    this.path.addEventListener("keydown", (event) => event.key === "Enter" && this.ask());
    const line = element("div", "dstack-trial-line", {}, this.path, this.send, this.asking.halt);
    this.answer = element("div", "dstack-answer", { hidden: "", role: "region", "aria-label": "Answer" });
    this.box = element("div", "", {}, line, this.asking.state, this.answer);
  }

  ask() {
    if (this.asking.busy) return;
    this.answer.hidden = true;
    this.send.disabled = true;
    this.asking.ask({ type: "try", path: this.path.value.trim() || "/" }, () => {
      this.send.disabled = false;
    });
  }

  hear(message) {
    this.asking.hear(message);
    if (message.type !== "try-answer") return;
    const good = message.status < 400;
    const status = element("b", good ? "dstack-good" : "dstack-bad", {}, `${message.status} ${message.reason}`);
    const time = element("span", "dstack-muted", {}, ` in ${secondsText(message.seconds)}`);
    const headers = element("pre", "dstack-headers", {}, message.headers.map(([name, value]) => `${name}: ${value}`).join("\n"));
    const summary = element("summary", "", {}, message.headers.length === 1 ? "1 header" : `${message.headers.length} headers`);
    const body = element("pre", "dstack-body", { tabindex: "0" }, message.body + (message.cut ? "\n… there is more of it" : ""));
    this.answer.replaceChildren(element("div", "", {}, status, time), element("details", "", {}, summary, headers), body);
    this.answer.hidden = false;
  }
}

/** The box, behind a disclosure. */
export class Trial {
  constructor(model, service) {
    this.kind = service.model === null ? new Get(model) : new Chat(model);
    const title = service.model === null ? "Try it: GET" : `Try it: chat with ${service.model}`;
    this.box = element("details", "dstack-trial", {}, element("summary", "", {}, title), this.kind.box);
  }

  hear(message) {
    if (message.id && message.id === this.kind.asking.id) this.kind.hear(message);
  }

  draw(service) {
    this.box.hidden = service.final;
  }
}
