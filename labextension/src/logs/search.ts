/**
 * Finds words in a log screen, in slices of time, and goes on as the output grows. Pure.
 */
import { LogScreen } from './screen';

/** A place where the words are, in units of the line's text. */
export interface IMatch {
  line: number;
  start: number;
  stop: number;
}

/** More places than this are of no use to anybody. */
export const MAX_MATCHES = 100_000;

/** How many lines are looked at between two looks at the clock. */
const STRIDE = 500;

/** The places of one query in one screen. */
export class LogSearch {
  /** Search *screen*, where upper and lower case are the same unless *query* has upper case. */
  constructor(
    private readonly screen: LogScreen,
    readonly query: string
  ) {
    const flags = query === query.toLowerCase() ? 'giu' : 'gu';
    this._pattern = new RegExp(
      query.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&'),
      flags
    );
    this._next = screen.dropped;
  }

  /** In the order of the lines. */
  get matches(): readonly IMatch[] {
    return this._matches;
  }

  /** Whether there are more places than are kept. */
  get isCut(): boolean {
    return this._matches.length >= MAX_MATCHES;
  }

  /** The place that was gone to last, as an index; -1 before any was. */
  get current(): number {
    return this._current;
  }

  /** Search on, until the end or until *isDue*; return whether the end was reached. */
  scan(isDue: () => boolean): boolean {
    this._forgetDropped();
    // Progress bars may have changed what was not settled yet.
    this._matches.length = this._firstFrom(this._settled);
    this._next = Math.max(
      Math.min(this._next, this._settled),
      this.screen.dropped
    );
    const { end, settled } = this.screen;
    while (this._next < end && !this.isCut) {
      const stop = Math.min(this._next + STRIDE, end);
      for (; this._next < stop; this._next += 1) {
        this._look(this._next);
      }
      if (this._next < end && isDue()) {
        break;
      }
    }
    this._settled = Math.min(this._next, settled);
    this._current = Math.min(this._current, this._matches.length - 1);
    return this._next >= end || this.isCut;
  }

  /**
   * Go to the next place and return it, or the previous one with *step* -1.
   *
   * The first time it is the first place from *line* on, or the last one before it.
   */
  go(step: 1 | -1, line: number): IMatch | undefined {
    const count = this._matches.length;
    if (!count) {
      return undefined;
    }
    if (this._current < 0) {
      const at = this._firstFrom(line);
      this._current = step > 0 ? at % count : (at - 1 + count) % count;
    } else {
      this._current = (this._current + step + count) % count;
    }
    return this._matches[this._current];
  }

  /** Return the places in a *line*. */
  in(line: number): readonly IMatch[] {
    const at = this._firstFrom(line);
    let stop = at;
    while (stop < this._matches.length && this._matches[stop].line === line) {
      stop += 1;
    }
    return this._matches.slice(at, stop);
  }

  private _look(number: number): void {
    const { text } = this.screen.at(number);
    this._pattern.lastIndex = 0;
    for (;;) {
      const found = this._pattern.exec(text);
      if (!found || this.isCut) {
        return;
      }
      this._matches.push({
        line: number,
        start: found.index,
        stop: found.index + found[0].length
      });
    }
  }

  private _forgetDropped(): void {
    const gone = this._firstFrom(this.screen.dropped);
    if (gone) {
      this._matches.splice(0, gone);
      this._current =
        this._current < 0 ? -1 : Math.max(this._current - gone, 0);
    }
  }

  private _firstFrom(line: number): number {
    let low = 0;
    let high = this._matches.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this._matches[middle].line < line) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  private readonly _pattern: RegExp;
  private _matches: IMatch[] = [];
  private _current = -1;
  /** The next line to be searched. */
  private _next: number;
  /** Lines before this one are searched for good. */
  private _settled = 0;
}
