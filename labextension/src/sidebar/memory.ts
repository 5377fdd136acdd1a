/** What the sidebar remembers from one visit to the next: its filter, what is closed. */
import { IStateDB } from '@jupyterlab/statedb';
import { ReadonlyPartialJSONObject } from '@lumino/coreutils';

const KEY = 'dstack-jupyter:sidebar';

/** Keeps a few values by name, in Jupyter's state of the workspace where there is one. */
export class Memory {
  constructor(private readonly _state: IStateDB | null) {}

  /** Read what is kept; afterwards `get` knows it. */
  async load(): Promise<void> {
    const kept = await this._state?.fetch(KEY).catch(() => undefined);
    if (kept && typeof kept === 'object' && !Array.isArray(kept)) {
      this._values = { ...(kept as ReadonlyPartialJSONObject) };
    }
    this._isLoaded = true;
  }

  /** Return the text kept under *name*, or the empty one. */
  text(name: string): string {
    const value = this._values[name];
    return typeof value === 'string' ? value : '';
  }

  /** Return the texts kept under *name*. */
  list(name: string): string[] {
    const value = this._values[name];
    return Array.isArray(value) ? value.map(String) : [];
  }

  /** Keep *value*; Jupyter itself writes it to its file when there is time. */
  set(name: string, value: string | string[]): void {
    this._values[name] = value;
    if (this._isLoaded) {
      void this._state?.save(KEY, { ...this._values });
    }
  }

  private _values: { [name: string]: any } = {};
  private _isLoaded = false;
}
