/**
 * What a terminal would show of a job's output: lines in colours, with carriage returns and
 * progress bars resolved. Pure, and bounded: the oldest lines are let go.
 *
 * Lines are named by their number since the first one ever, so that a number means the same line
 * after others have been let go.
 */
import { ILook, PLAIN, look, styled } from './looks';

/** A line longer than this is continued on the next one. */
export const MAX_COLUMNS = 10_000;
/** Progress bars move the cursor up, no further than this; lines above never change again. */
export const MAX_UP = 500;

const MAX_ESCAPE = 4_096;
const CHUNK = 200;
const TAB = 8;
/* eslint-disable no-control-regex */
const TEXT = /[^\x00-\x1f\x7f-\x9f]+/y;
const CSI = /\x1b\[([0-?]*)[ -/]*([@-~])/y;
const STRING = /\x1b[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)/y;
const SHORT = /\x1b[ -/]*[0-OQ-WYZ\\`-~]/y;
const UNFINISHED = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)$/y;
/* eslint-enable no-control-regex */

/** A piece of a line that looks the same throughout. */
export interface ISpan {
  text: string;
  look: ILook;
}

// Characters outside the basic plane take two units of a string, and must not be cut in two.
const isSimple = (text: string) => !/[\ud800-\udfff]/.test(text);
const lengthOf = (text: string) =>
  isSimple(text) ? text.length : Array.from(text).length;
const slice = (text: string, start: number, stop: number) =>
  isSimple(text)
    ? text.slice(start, stop)
    : Array.from(text).slice(start, stop).join('');

/** One line; its columns count characters. */
export class Line {
  spans: ISpan[] = [];
  width = 0;
  /** Grows with every change. */
  version = 0;

  get text(): string {
    return this.spans.length === 1
      ? this.spans[0].text
      : this.spans.map(span => span.text).join('');
  }

  put(column: number, text: string, look: ILook): void {
    this.version += 1;
    if (column > this.width) {
      this.append(' '.repeat(column - this.width), PLAIN);
    }
    if (column === this.width) {
      this.append(text, look);
      return;
    }
    const tail = this.cut(column + lengthOf(text), this.width);
    this.eraseFrom(column);
    this.append(text, look);
    for (const rest of tail) {
      this.append(rest.text, rest.look);
    }
  }

  eraseFrom(column: number): void {
    this.version += 1;
    this.spans = this.cut(0, column);
    this.width = Math.min(this.width, column);
  }

  private append(text: string, look: ILook): void {
    this.width += lengthOf(text);
    const last = this.spans[this.spans.length - 1];
    if (last && last.look === look) {
      last.text += text;
    } else {
      this.spans.push({ text, look });
    }
  }

  private cut(start: number, stop: number): ISpan[] {
    const kept: ISpan[] = [];
    let at = 0;
    for (const { text, look } of this.spans) {
      const piece = slice(
        text,
        Math.max(start - at, 0),
        Math.max(stop - at, 0)
      );
      if (piece) {
        kept.push({ text: piece, look });
      }
      at += lengthOf(text);
    }
    return kept;
  }
}

/** The lines of one job's output. */
export class LogScreen {
  constructor(options: LogScreen.IOptions = {}) {
    this.limit = options.limit ?? 200_000;
    this.characters = options.characters ?? 32_000_000;
    this.onDrop = options.onDrop;
  }

  /** Forget everything. */
  clear(): void {
    this.dropped = 0;
    this.widest = 0;
    this._size = 0;
    this._count = 1;
    this._up = 0;
    this._column = 0;
    this._look = PLAIN;
    this._pending = '';
    this._chunks = [[new Line()]];
  }

  /** How many lines were let go: the number of the first that is here. */
  dropped = 0;

  /** The columns of the widest line that was ever here. */
  widest = 0;

  /** The number after the last line; an empty last one is left out. */
  get end(): number {
    const last = this._chunks[this._chunks.length - 1];
    const open = last[last.length - 1].width ? 0 : 1;
    return this.dropped + this._count - open;
  }

  /** The number of the first line that may still change. */
  get settled(): number {
    return Math.max(this.dropped, this.dropped + this._count - 1 - MAX_UP);
  }

  /** Return the line of a *number* from `dropped` to before `end`. */
  at(number: number): Line {
    const index = number - this.dropped;
    // All chunks but the last are full.
    return this._chunks[Math.floor(index / CHUNK)][index % CHUNK];
  }

  /** Return the text of the lines from *start* to before *stop*, without blanks at their ends. */
  text(start = this.dropped, stop = this.end): string {
    const lines: string[] = [];
    for (let number = start; number < stop; number += 1) {
      lines.push(this.at(number).text.trimEnd());
    }
    return lines.join('\n');
  }

  /** Take a piece of output; a sequence may be split between pieces. */
  write(given: string): void {
    const text = this._pending + given;
    this._pending = '';
    let at = 0;
    while (at < text.length) {
      TEXT.lastIndex = at;
      const found = TEXT.exec(text);
      if (found) {
        this._put(found[0]);
        at = TEXT.lastIndex;
      } else if (text[at] === '\x1b') {
        at = this._escape(text, at);
      } else {
        this._control(text[at]);
        at += 1;
      }
    }
  }

  /** Say something that the job did not, on a line of its own. */
  mark(text: string): void {
    this._pending = '';
    this._up = 0;
    if (this._column || this._line().width) {
      this._newLine();
    }
    const before = this._look;
    this._look = look({ dim: true, italic: true });
    this._put(text.trim());
    this._newLine();
    this._look = before;
  }

  private _put(text: string): void {
    let rest = text;
    while (rest) {
      if (this._column >= MAX_COLUMNS) {
        this._newLine();
      }
      const piece = slice(rest, 0, MAX_COLUMNS - this._column);
      const line = this._line();
      const before = line.width;
      line.put(this._column, piece, this._look);
      this._size += line.width - before;
      this.widest = Math.max(this.widest, line.width);
      this._column += lengthOf(piece);
      rest = rest.slice(piece.length);
    }
  }

  private _control(character: string): void {
    if (character === '\n') {
      this._newLine();
    } else if (character === '\r') {
      this._column = 0;
    } else if (character === '\b') {
      this._column = Math.max(this._column - 1, 0);
    } else if (character === '\t') {
      const stop = (Math.floor(this._column / TAB) + 1) * TAB;
      this._column = Math.min(stop, MAX_COLUMNS);
    }
  }

  private _escape(text: string, at: number): number {
    CSI.lastIndex = at;
    const sequence = CSI.exec(text);
    if (sequence) {
      this._sequence(sequence[1], sequence[2]);
      return CSI.lastIndex;
    }
    for (const other of [STRING, SHORT]) {
      other.lastIndex = at;
      if (other.test(text)) {
        return other.lastIndex;
      }
    }
    UNFINISHED.lastIndex = at;
    if (text.length - at <= MAX_ESCAPE && UNFINISHED.test(text)) {
      this._pending = text.slice(at);
      return text.length;
    }
    return at + 1;
  }

  private _sequence(parameters: string, final: string): void {
    if (final === 'm') {
      this._look = styled(this._look, parameters);
      return;
    }
    const given = /^\d{1,5}$/.test(parameters) ? Number(parameters) : 0;
    const count = Math.max(given, 1);
    switch (final) {
      case 'A':
      case 'F':
        this._up = Math.min(this._up + count, this._count - 1, MAX_UP);
        break;
      case 'B':
      case 'E':
        this._up = Math.max(this._up - count, 0);
        break;
      case 'C':
        this._column = Math.min(this._column + count, MAX_COLUMNS);
        break;
      case 'D':
        this._column = Math.max(this._column - count, 0);
        break;
      case 'G':
        this._column = Math.min(count - 1, MAX_COLUMNS);
        break;
      case 'K':
        this._eraseLine(given);
        break;
      case 'J':
        if (given === 0) {
          this._eraseBelow();
        }
    }
    if (final === 'E' || final === 'F') {
      this._column = 0;
    }
  }

  private _eraseLine(how: number): void {
    const line = this._line();
    this._size -= line.width;
    if (how === 0) {
      line.eraseFrom(this._column);
    } else if (how === 1 && this._column < line.width) {
      line.put(0, ' '.repeat(this._column), PLAIN);
    } else {
      line.eraseFrom(0);
    }
    this._size += line.width;
  }

  private _eraseBelow(): void {
    this._eraseLine(0);
    for (; this._up; this._up -= 1) {
      const chunk = this._chunks[this._chunks.length - 1];
      this._size -= (chunk.pop() as Line).width;
      this._count -= 1;
      if (!chunk.length) {
        this._chunks.pop();
      }
    }
  }

  /** The line under the cursor. */
  private _line(): Line {
    return this.at(this.dropped + this._count - 1 - this._up);
  }

  private _newLine(): void {
    this._column = 0;
    if (this._up) {
      this._up -= 1;
      return;
    }
    let chunk = this._chunks[this._chunks.length - 1];
    if (chunk.length >= CHUNK) {
      chunk = [];
      this._chunks.push(chunk);
    }
    chunk.push(new Line());
    this._count += 1;
    while (
      this._chunks.length > 1 &&
      (this._count > this.limit + CHUNK || this._size > this.characters)
    ) {
      this._drop(this._chunks.shift() as Line[]);
    }
  }

  private _drop(gone: Line[]): void {
    this.dropped += gone.length;
    this._count -= gone.length;
    this._up = Math.min(this._up, this._count - 1);
    for (const line of gone) {
      this._size -= line.width;
    }
    this.onDrop?.(gone);
  }

  private readonly limit: number;
  private readonly characters: number;
  private readonly onDrop?: (lines: readonly Line[]) => void;
  private _size = 0;
  private _count = 1;
  private _up = 0;
  private _column = 0;
  private _look: ILook = PLAIN;
  private _pending = '';
  private _chunks: Line[][] = [[new Line()]];
}

export namespace LogScreen {
  export interface IOptions {
    /** How many lines are kept, about. */
    limit?: number;
    /** How many characters are kept, about. */
    characters?: number;
    /** Called with lines that are let go. */
    onDrop?: (lines: readonly Line[]) => void;
  }
}
