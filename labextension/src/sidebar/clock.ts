/** One tick a second for the whole sidebar, and none while nobody looks or nothing goes on. */
import { IDisposable } from '@lumino/disposable';
import { ISignal, Signal } from '@lumino/signaling';

/** Ticks while it is *needed*, which is asked at each tick and at each `check`. */
export class Clock implements IDisposable {
  constructor(private readonly _needed: () => boolean) {
    document.addEventListener('visibilitychange', this);
  }

  /** Emitted once a second. */
  get ticked(): ISignal<this, void> {
    return this._ticked;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /** Begin or stop to tick: something has changed. */
  check(): void {
    const runs = this._timer !== null;
    const needed = !this._isDisposed && !document.hidden && this._needed();
    if (needed && !runs) {
      this._timer = window.setInterval(() => this._tick(), 1000);
    } else if (!needed && runs) {
      window.clearInterval(this._timer!);
      this._timer = null;
    }
  }

  handleEvent(): void {
    this.check();
  }

  dispose(): void {
    this._isDisposed = true;
    this.check();
    document.removeEventListener('visibilitychange', this);
    Signal.clearData(this);
  }

  private _tick(): void {
    this.check();
    if (this._timer !== null) {
      this._ticked.emit();
    }
  }

  private _timer: number | null = null;
  private _isDisposed = false;
  private _ticked = new Signal<this, void>(this);
}
