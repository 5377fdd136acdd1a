/**
 * What a terminal would show of a job's output: the twin of terminal.py, and it passes the same
 * tests. Lines stand in chunks, so that 100,000 of them can be drawn, and dropped, chunk by chunk.
 */

const MAX_COLUMNS = 10_000;
const MAX_UP = 500;
const MAX_ESCAPE = 4_096;
const CHUNK = 200;
const PLAIN = Object.freeze({ key: "" });
const TEXT = /[^\x00-\x1f\x7f-\x9f]+/y;
const CSI = /\x1b\[([0-?]*)[ -/]*([@-~])/y;
const STRING = /\x1b[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)/y;
const SHORT = /\x1b[ -/]*[0-OQ-WYZ\\`-~]/y;
const UNFINISHED = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)$/y;
const SWITCH_ON = {
  1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike",
};
const SWITCH_OFF = {
  21: ["bold"], 22: ["bold", "dim"], 23: ["italic"], 24: ["underline"], 27: ["inverse"],
  29: ["strike"],
};
const STYLES = new Map();

/** @returns the same object for the same style, so that styles are compared by identity. */
function style(properties) {
  const { key: _, ...given } = properties;
  const key = JSON.stringify(Object.entries(given).filter(([, on]) => on !== undefined && on !== false).sort());
  if (key === "[]") return PLAIN;
  if (STYLES.size > 5_000) STYLES.clear();
  if (!STYLES.has(key)) STYLES.set(key, Object.freeze({ ...given, key }));
  return STYLES.get(key);
}

/** Characters outside the basic plane take two units of a string, and must not be cut in two. */
const isSimple = (text) => !/[\ud800-\udfff]/.test(text);
const lengthOf = (text) => (isSimple(text) ? text.length : Array.from(text).length);
const slice = (text, start, stop) =>
  isSimple(text) ? text.slice(start, stop) : Array.from(text).slice(start, stop).join("");

class Line {
  constructor() {
    /** @type {[string, object][]} */
    this.spans = [];
    this.width = 0;
  }

  get text() {
    return this.spans.map(([text]) => text).join("");
  }

  put(column, text, look) {
    if (column > this.width) this.append(" ".repeat(column - this.width), PLAIN);
    if (column === this.width) return this.append(text, look);
    const tail = this.cut(column + lengthOf(text), this.width);
    this.eraseFrom(column);
    this.append(text, look);
    for (const [rest, restLook] of tail) this.append(rest, restLook);
  }

  eraseFrom(column) {
    this.spans = this.cut(0, column);
    this.width = Math.min(this.width, column);
  }

  append(text, look) {
    this.width += lengthOf(text);
    const last = this.spans[this.spans.length - 1];
    if (last && last[1] === look) last[0] += text;
    else this.spans.push([text, look]);
  }

  cut(start, stop) {
    const kept = [];
    let at = 0;
    for (const [text, look] of this.spans) {
      const piece = slice(text, Math.max(start - at, 0), Math.max(stop - at, 0));
      if (piece) kept.push([piece, look]);
      at += lengthOf(text);
    }
    return kept;
  }
}

export class LogScreen {
  constructor(limit = 100_000, characters = 16_000_000) {
    this.limit = limit;
    this.characters = characters;
    this.clear();
  }

  clear() {
    this.dropped = 0;
    this.size = 0;
    this.count = 1;
    this.up = 0;
    this.column = 0;
    this.look = PLAIN;
    this.pending = {};
    this.decoders = {};
    /** @type {{lines: Line[], version: number}[]} */
    this.chunks = [{ lines: [new Line()], version: 0 }];
  }

  /** Take a piece of output; characters may be split between pieces of one stream. */
  feed(stream, bytes) {
    this.decoders[stream] ??= new TextDecoder();
    const text = this.decoders[stream].decode(bytes, { stream: true });
    if (stream === "cut") this.mark(text);
    else this.write(text, stream);
  }

  write(given, stream = "stdout") {
    const text = (this.pending[stream] ?? "") + given;
    this.pending[stream] = "";
    let at = 0;
    while (at < text.length) {
      TEXT.lastIndex = at;
      const found = TEXT.exec(text);
      if (found) {
        this.put(found[0]);
        at = TEXT.lastIndex;
      } else if (text[at] === "\x1b") {
        at = this.escape(text, at, stream);
      } else {
        this.control(text[at]);
        at += 1;
      }
    }
  }

  /** @returns {Generator<Line>} every line; an empty last one is left out. */
  *lines() {
    let left = this.count;
    for (const chunk of this.chunks) {
      for (const line of chunk.lines) {
        left -= 1;
        if (left || line.width) yield line;
      }
    }
  }

  get text() {
    return Array.from(this.lines(), (line) => line.text.trimEnd()).join("\n");
  }

  // -- what the characters do

  put(text) {
    let rest = text;
    while (rest) {
      if (this.column >= MAX_COLUMNS) this.newLine();
      const piece = slice(rest, 0, MAX_COLUMNS - this.column);
      const line = this.line();
      const before = line.width;
      line.put(this.column, piece, this.look);
      this.size += line.width - before;
      this.column += lengthOf(piece);
      rest = rest.slice(piece.length);
    }
  }

  mark(text) {
    if (this.column || this.line().width) {
      this.up = 0;
      this.newLine();
    }
    const before = this.look;
    this.look = style({ dim: true, italic: true });
    this.write(text.trim(), "cut");
    this.newLine();
    this.look = before;
  }

  control(character) {
    if (character === "\n") this.newLine();
    else if (character === "\r") this.column = 0;
    else if (character === "\b") this.column = Math.max(this.column - 1, 0);
    else if (character === "\t") {
      this.column = Math.min((Math.floor(this.column / 8) + 1) * 8, MAX_COLUMNS);
    }
  }

  escape(text, at, stream) {
    CSI.lastIndex = at;
    const sequence = CSI.exec(text);
    if (sequence) {
      this.sequence(sequence[1], sequence[2]);
      return CSI.lastIndex;
    }
    for (const other of [STRING, SHORT]) {
      other.lastIndex = at;
      if (other.test(text)) return other.lastIndex || at + 1;
    }
    UNFINISHED.lastIndex = at;
    if (text.length - at <= MAX_ESCAPE && UNFINISHED.test(text)) {
      this.pending[stream] = text.slice(at);
      return text.length;
    }
    return at + 1;
  }

  sequence(parameters, final) {
    if (final === "m") {
      this.look = styled(this.look, parameters);
      return;
    }
    const given = /^\d{1,5}$/.test(parameters) ? Number(parameters) : 0;
    const count = Math.max(given, 1);
    if ("AF".includes(final)) this.up = Math.min(this.up + count, this.count - 1, MAX_UP);
    else if ("BE".includes(final)) this.up = Math.max(this.up - count, 0);
    else if (final === "C") this.column = Math.min(this.column + count, MAX_COLUMNS);
    else if (final === "D") this.column = Math.max(this.column - count, 0);
    else if (final === "G") this.column = Math.min(count - 1, MAX_COLUMNS);
    else if (final === "K") this.eraseLine(given);
    else if (final === "J" && given === 0) this.eraseBelow();
    if ("EF".includes(final)) this.column = 0;
  }

  eraseLine(how) {
    const line = this.line();
    this.size -= line.width;
    if (how === 0) line.eraseFrom(this.column);
    else if (how === 1 && this.column < line.width) line.put(0, " ".repeat(this.column), PLAIN);
    else line.eraseFrom(0);
    this.size += line.width;
  }

  eraseBelow() {
    this.eraseLine(0);
    for (; this.up; this.up -= 1) {
      const chunk = this.chunks[this.chunks.length - 1];
      this.size -= chunk.lines.pop().width;
      this.count -= 1;
      chunk.version += 1;
      if (!chunk.lines.length) this.chunks.pop();
    }
  }

  /** The line under the cursor; whoever asks is going to change it. */
  line() {
    let up = this.up;
    let at = this.chunks.length - 1;
    while (up >= this.chunks[at].lines.length) {
      up -= this.chunks[at].lines.length;
      at -= 1;
    }
    const chunk = this.chunks[at];
    chunk.version += 1;
    return chunk.lines[chunk.lines.length - 1 - up];
  }

  newLine() {
    this.column = 0;
    if (this.up) {
      this.up -= 1;
      return;
    }
    let chunk = this.chunks[this.chunks.length - 1];
    if (chunk.lines.length >= CHUNK) {
      chunk = { lines: [], version: 0 };
      this.chunks.push(chunk);
    }
    chunk.lines.push(new Line());
    chunk.version += 1;
    this.count += 1;
    while (this.chunks.length > 1 && (this.count > this.limit + CHUNK || this.size > this.characters)) {
      const gone = this.chunks.shift();
      this.dropped += gone.lines.length;
      this.count -= gone.lines.length;
      this.up = Math.min(this.up, this.count - 1);
      for (const line of gone.lines) this.size -= line.width;
    }
  }
}

const STEPS = new Map();

/** @returns the style after `ESC [ parameters m`; the few that a job uses are remembered. */
function styled(before, parameters) {
  const key = `${before.key}|${parameters}`;
  if (!STEPS.has(key)) {
    if (STEPS.size > 1_000) STEPS.clear();
    STEPS.set(key, stepped(before, parameters));
  }
  return STEPS.get(key);
}

function stepped(before, parameters) {
  const codes = parameters.slice(0, 256).split(/[;:]/).map((word) => (/^\d{1,5}$/.test(word) ? Number(word) : 0));
  let look = before;
  while (codes.length) {
    const code = codes.shift();
    if (code === 0) look = PLAIN;
    else if (SWITCH_ON[code]) look = style({ ...look, [SWITCH_ON[code]]: true });
    else if (SWITCH_OFF[code]) {
      look = style({ ...look, ...Object.fromEntries(SWITCH_OFF[code].map((name) => [name, false])) });
    } else if (code === 38 || code === 48) {
      const colour = longColour(codes);
      if (colour !== undefined) look = style({ ...look, [code === 38 ? "front" : "back"]: colour });
    } else look = shortColour(look, code);
  }
  return look;
}

function shortColour(look, code) {
  const unit = code % 10;
  const tens = (code - unit) / 10;
  if (![3, 4, 9, 10].includes(tens)) return look;
  const side = tens === 3 || tens === 9 ? "front" : "back";
  if (unit === 9 && tens < 5) return style({ ...look, [side]: undefined });
  if (unit > 7) return look;
  return style({ ...look, [side]: tens > 5 ? unit + 8 : unit });
}

function longColour(codes) {
  const kind = codes.shift() ?? 0;
  if (kind === 5 && codes.length) return Math.min(codes.shift(), 255);
  if (kind === 2 && codes.length >= 3) {
    const parts = codes.splice(0, 3).map((part) => Math.min(part, 255).toString(16).padStart(2, "0"));
    return `#${parts.join("")}`;
  }
  codes.length = 0;
  return undefined;
}

const CUBE = [0, 95, 135, 175, 215, 255];

/** @returns {string} CSS of a colour; the first sixteen follow the page's theme. */
export function colourOf(colour) {
  if (typeof colour === "string") return colour;
  if (colour < 16) return `var(--dstack-ansi-${colour})`;
  if (colour >= 232) {
    const grey = 8 + (colour - 232) * 10;
    return `rgb(${grey},${grey},${grey})`;
  }
  const at = colour - 16;
  return `rgb(${CUBE[Math.floor(at / 36)]},${CUBE[Math.floor(at / 6) % 6]},${CUBE[at % 6]})`;
}
