/** The run that is focused in the sidebar, for commands that are given no name. */
import { ISignal, Signal } from '@lumino/signaling';

import { IFocus } from './tokens';

/** Keeps one name. */
export class Focus implements IFocus {
  get name(): string | null {
    return this._name;
  }
  set name(name: string | null) {
    if (name !== this._name) {
      this._name = name;
      this._changed.emit();
    }
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  private _name: string | null = null;
  private _changed = new Signal<this, void>(this);
}
