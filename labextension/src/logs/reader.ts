/**
 * Reads a run's output as long as somebody looks at it: paused and taken up again at its offset,
 * after a break too. Knows no page; the panel gives it a way to ask.
 */
import { IDisposable } from '@lumino/disposable';
import { ISignal, Signal } from '@lumino/signaling';

import { ILogPiece } from '../records';
import { Trouble } from '../tokens';

/** Of a long output only so much of its end is read at first, in bytes. */
export const TAIL = 48_000_000;

/** The waits after a break, in milliseconds; the last one is repeated. */
const WAITS = [250, 1_000, 2_000, 5_000, 10_000, 30_000];

/** So long pieces are taken at a stretch before the page has its turn, in milliseconds. */
const STRETCH = 10;

/** Takes pieces of output one after the other, from one place on. */
export class LogReader implements IDisposable {
  constructor(private readonly options: LogReader.IOptions) {}

  /** What it does now. */
  get state(): LogReader.State {
    return this._state;
  }

  /** Why it is `broken` or `refused`. */
  get trouble(): Trouble {
    return this._trouble;
  }

  /** Emitted after the state or the trouble has changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Whether `dispose` was called. */
  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /** Read from where it was; nothing happens while it does, or after the output's end. */
  resume(): void {
    if (this._isDisposed || this._ending || this._state === 'ended') {
      return;
    }
    this._ending = new AbortController();
    void this._read(this._ending.signal);
  }

  /** Stop reading; the place is kept. */
  pause(): void {
    this._ending?.abort();
    this._ending = null;
    if (this._state === 'reading' || this._state === 'broken') {
      this._become('paused');
    }
  }

  /** Read anew from the beginning. */
  restart(): void {
    this.pause();
    this._offset = null;
    this._job = undefined;
    this._state = 'paused';
    this.resume();
  }

  /** Try now what would be tried again later. */
  retry(): void {
    if (this._state === 'broken' || this._state === 'refused') {
      this.pause();
      this.resume();
    }
  }

  /** Stop for good. */
  dispose(): void {
    if (this._isDisposed) {
      return;
    }
    this._isDisposed = true;
    this.pause();
    Signal.clearData(this);
  }

  private async _read(signal: AbortSignal): Promise<void> {
    this._become('reading');
    for (this._breaks = 0; !signal.aborted; this._breaks += 1) {
      let trouble: Trouble = { kind: 'none' };
      try {
        const isWhole = await this._takeAll(signal);
        if (!isWhole && !signal.aborted) {
          this._breaks = -1;
          continue;
        }
        if (!signal.aborted && this.options.isOver()) {
          this._ending = null;
          this._become('ended');
          return;
        }
      } catch (error) {
        trouble = this.options.troubleOf(error);
      }
      if (signal.aborted) {
        return;
      }
      if (trouble.kind !== 'none' && !isPassing(trouble)) {
        this._ending = null;
        this._become('refused', trouble);
        return;
      }
      if (this._breaks) {
        this._become('broken', trouble);
      }
      const wait = WAITS[Math.min(this._breaks, WAITS.length - 1)];
      await this.options.rest(wait, signal);
    }
  }

  /** Take what comes; return whether that was all of it, or it is to be asked for anew at once. */
  private async _takeAll(signal: AbortSignal): Promise<boolean> {
    const place =
      this._offset === null ? { tail: TAIL } : { offset: this._offset };
    let begun = performance.now();
    for await (const piece of this.options.open(place, signal)) {
      if (signal.aborted) {
        return false;
      }
      if (this._hasMissed(piece)) {
        this.options.another(piece.job);
        this._offset = 0;
        this._job = piece.job;
        return false;
      }
      this._take(piece);
      if (performance.now() - begun > STRETCH) {
        await this.options.rest(0, signal);
        begun = performance.now();
      }
    }
    return true;
  }

  /** Return whether another job has begun to print during a break, and its beginning is not here. */
  private _hasMissed(piece: ILogPiece): boolean {
    return this._offset !== null && piece.job !== this._job && !!piece.start;
  }

  private _take(piece: ILogPiece): void {
    const isFirst = this._offset === null;
    const isAnother =
      !isFirst &&
      (piece.job !== this._job || piece.offset < (this._offset as number));
    this._offset = piece.offset;
    this._job = piece.job;
    this._breaks = 0;
    if (this._state === 'broken') {
      this._become('reading');
    }
    if (isAnother) {
      this.options.another(piece.job);
    } else if (isFirst && piece.start) {
      this.options.skipped(piece.start);
    }
    this.options.take(piece);
  }

  private _become(
    state: LogReader.State,
    trouble: Trouble = { kind: 'none' }
  ): void {
    this._state = state;
    this._trouble = trouble;
    this._changed.emit();
  }

  private _state: LogReader.State = 'paused';
  private _trouble: Trouble = { kind: 'none' };
  private _offset: number | null = null;
  private _job: string | undefined;
  private _breaks = 0;
  private _ending: AbortController | null = null;
  private _isDisposed = false;
  private _changed = new Signal<this, void>(this);
}

export namespace LogReader {
  /** `broken` tries again by itself, `refused` does not. */
  export type State = 'paused' | 'reading' | 'broken' | 'refused' | 'ended';

  /** From where on is read. */
  export type Place = { tail: number } | { offset: number };

  export interface IOptions {
    /** Ask for the output from a place on, followed; ends when *signal* aborts it. */
    open(place: Place, signal: AbortSignal): AsyncIterable<ILogPiece>;
    /** Have a piece of output. */
    take(piece: ILogPiece): void;
    /** Have been told that the next piece is of another job: another attempt. */
    another(job: string | undefined): void;
    /** Have been told that the output's first bytes were left out. */
    skipped(bytes: number): void;
    /** Return whether the run prints nothing more. */
    isOver(): boolean;
    /** Say what kind of trouble an error is. */
    troubleOf(error: unknown): Trouble;
    /** Wait so many milliseconds, or until *signal* aborts it; never rejects. */
    rest(milliseconds: number, signal: AbortSignal): Promise<void>;
  }
}

/** Wait so many milliseconds, or until *signal* is aborted. */
export function rest(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    const timer = setTimeout(done, milliseconds);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    }
    signal.addEventListener('abort', done);
  });
}

/** Return whether a trouble may pass by itself. */
function isPassing(trouble: Trouble): boolean {
  return trouble.kind === 'network' || trouble.kind === 'engine-down';
}
