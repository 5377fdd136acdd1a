/** Gathers what happens at about the same time, so that it is told once. */
import { IDisposable } from '@lumino/disposable';

/** Hands on together what came within a short time after the first. */
export class Gathering<T> implements IDisposable {
  /** Hand what came within *milliseconds* to *tell*. */
  constructor(
    private readonly milliseconds: number,
    private readonly tell: (all: T[]) => void
  ) {}

  /** Whether `dispose` was called. */
  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /** Have one more. */
  add(one: T): void {
    if (this._isDisposed) {
      return;
    }
    this._all.push(one);
    this._timer ??= setTimeout(() => {
      const all = this._all;
      this._all = [];
      this._timer = undefined;
      this.tell(all);
    }, this.milliseconds);
  }

  /** Tell nothing more. */
  dispose(): void {
    this._isDisposed = true;
    clearTimeout(this._timer);
  }

  private _all: T[] = [];
  private _timer: ReturnType<typeof setTimeout> | undefined;
  private _isDisposed = false;
}
