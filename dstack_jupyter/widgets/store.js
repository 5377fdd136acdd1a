import { LogScreen } from "./screen.js";

/**
 * What a page knows of one run's output, for all views of it: messages in, lines out, a little at a
 * time so that the page stays awake. Also when the kernel was last heard of, and its clock.
 */

const SLICE = 32_768; // bytes parsed before looking at the clock
const BUDGET = 12; // ms of parsing before the page gets its turn
const MAX_QUEUED = 16_000_000; // bytes
const QUIET = 20_000; // ms without a word after which the kernel counts as gone

export class Store {
  constructor() {
    this.screen = new LogScreen();
    this.queue = [];
    this.queued = 0;
    this.at = 0;
    this.clock = 0;
    this.heard = Date.now();
    this.looked = Date.now();
    this.listeners = new Set();
    this.pumping = false;
  }

  /** Take a message of the kernel. */
  take(message, buffers) {
    this.heard = Date.now();
    if (message.type === "beat") this.clock = message.now - Date.now();
    if (message.type === "log") this.takeLog(message, bytesOf(buffers[0]));
    if (message.type === "reset") this.takeReset(message, bytesOf(buffers[0]));
    this.tell(message);
  }

  takeLog(message, bytes) {
    const end = message.at + bytes.length;
    if (end <= this.at) return;
    if (message.at > this.at) {
      this.push("cut", new TextEncoder().encode(`… ${message.at - this.at} bytes are not shown here`));
    }
    // What overlaps with what we have is left out.
    let skip = Math.max(this.at - message.at, 0);
    let start = 0;
    for (const [stream, length] of message.frames) {
      const piece = bytes.subarray(start + Math.min(skip, length), start + length);
      skip = Math.max(skip - length, 0);
      start += length;
      if (piece.length) this.push(stream, piece);
    }
    this.at = end;
    this.pump();
  }

  takeReset(message, bytes) {
    if (message.at <= this.at) return;
    this.queue = [];
    this.queued = 0;
    this.screen.clear();
    let start = 0;
    for (const [stream, length] of message.frames) {
      this.push(stream, bytes.subarray(start, start + length));
      start += length;
    }
    this.screen.dropped = message.dropped;
    this.at = message.at;
    this.pump();
  }

  push(stream, bytes) {
    for (let at = 0; at < bytes.length; at += SLICE) {
      this.queue.push([stream, bytes.subarray(at, at + SLICE)]);
    }
    this.queued += bytes.length;
    if (this.queued <= MAX_QUEUED) return;
    while (this.queued > MAX_QUEUED / 2) this.queued -= this.queue.shift()[1].length;
    this.queue.unshift(["cut", new TextEncoder().encode("… output came faster than it can be shown")]);
  }

  pump() {
    if (this.pumping) return;
    this.pumping = true;
    const work = () => {
      const until = performance.now() + (document.hidden ? 100 : BUDGET);
      let taken = 0;
      while (taken < this.queue.length && performance.now() < until) {
        const [stream, bytes] = this.queue[taken++];
        this.screen.feed(stream, bytes);
        this.queued -= bytes.length;
      }
      this.queue.splice(0, taken);
      this.tell({ type: "drawn" });
      this.pumping = this.queue.length > 0;
      if (this.pumping) setTimeout(work, 0);
    };
    work();
  }

  /** Tell whether the kernel is silent; a tab that slept has to listen first. */
  isQuiet() {
    const now = Date.now();
    if (now - this.looked > QUIET / 2) this.heard = Math.max(this.heard, now - QUIET / 2);
    this.looked = now;
    return now - this.heard > QUIET;
  }

  now() {
    return Date.now() + this.clock;
  }

  tell(message) {
    for (const listener of this.listeners) listener(message);
  }
}

function bytesOf(view) {
  return view ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength) : new Uint8Array();
}
