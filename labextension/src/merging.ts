/**
 * Rows by name, kept in order, and what a message of the server changes in them.
 *
 * Pure; the model calls it. Taking a change costs what has changed, however many rows there are.
 */
import { IRunRow } from './records';

/** Rows by their names; `list` has them in order. */
export class Rows<T extends { name: string }> {
  /** Compare by *order* where rows are to be sorted; else they stay as they came. */
  constructor(private readonly _order?: (one: T, other: T) => number) {}

  /** The rows in order; the same array until something changes. */
  get list(): readonly T[] {
    if (!this._list) {
      this._list = [...this._byName.values()];
      if (this._order && !this._sorted) {
        this._list.sort(this._order);
        this._byName = new Map(this._list.map(row => [row.name, row]));
        this._sorted = true;
      }
    }
    return this._list;
  }

  /** Return the row of that name. */
  get(name: string): T | undefined {
    return this._byName.get(name);
  }

  /** Put one row in the place of its older self, or add it. */
  put(row: T): void {
    this._sorted = this._sorted && this._byName.has(row.name);
    this._byName.set(row.name, row);
    this._list = null;
  }

  /** Take one row away; tell whether it was there. */
  remove(name: string): boolean {
    const was = this._byName.delete(name);
    this._list = was ? null : this._list;
    return was;
  }

  /** Replace all rows; tell whether that made a difference. */
  replace(rows: readonly T[]): boolean {
    const kept = rows.map(row => {
      const old = this._byName.get(row.name);
      return old && isSame(old, row) ? old : row;
    });
    const before = this.list;
    if (
      kept.length === before.length &&
      kept.every((row, index) => row === before[index])
    ) {
      return false;
    }
    this._byName = new Map(kept.map(row => [row.name, row]));
    this._sorted = false;
    this._list = null;
    return true;
  }

  private _byName = new Map<string, T>();
  private _list: T[] | null = [];
  private _sorted = true;
}

/** Order runs by their submission, the newest first. */
export function byAge(one: IRunRow, other: IRunRow): number {
  if (one.submitted_at === other.submitted_at) {
    return one.name < other.name ? -1 : 1;
  }
  return Date.parse(other.submitted_at) - Date.parse(one.submitted_at);
}

/** Tell whether *row* is not older than what is *held* of the same name. */
export function isNewer(row: IRunRow, held: IRunRow | undefined): boolean {
  if (!held || row.submitted_at !== held.submitted_at) {
    return (
      !held || Date.parse(row.submitted_at) > Date.parse(held.submitted_at)
    );
  }
  if (row.finished !== held.finished) {
    return row.finished;
  }
  return Date.parse(row.as_of) >= Date.parse(held.as_of);
}

function isSame(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}
