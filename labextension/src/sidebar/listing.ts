/** Which runs the sidebar lists, and in what order. Pure; called by the section of runs. */
import { IRunRow } from '../records';

/** The two groups of runs. */
export type GroupName = 'active' | 'finished';

/** The heading of a group, with how many of its runs are shown. */
export interface IGroup {
  kind: 'group';
  group: GroupName;
  count: number;
  isOpen: boolean;
}

/** One run, the *place*-th of so many in its group. */
export interface IListed {
  kind: 'run';
  run: IRunRow;
  place: number;
  of: number;
}

/** What stands in one line of the list. */
export type Item = IGroup | IListed;

/** The lines of the list, and how many runs they stand for. */
export interface IListing {
  items: Item[];
  matching: number;
  total: number;
}

const haystacks = new WeakMap<IRunRow, string>();

/** Return the list of *runs* that match *filter*, the active before the finished. */
export function listRuns(
  runs: readonly IRunRow[],
  filter: string,
  closed: ReadonlySet<GroupName>
): IListing {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.length ? runs.filter(run => matches(run, words)) : runs;
  const items: Item[] = [];
  addGroup(items, 'active', found, closed);
  addGroup(items, 'finished', found, closed);
  return { items, matching: found.length, total: runs.length };
}

/** Tell whether a run has every one of the lower-case *words* in its name, status or type. */
export function matches(run: IRunRow, words: readonly string[]): boolean {
  let haystack = haystacks.get(run);
  if (haystack === undefined) {
    const state = run.finished ? 'finished' : 'active';
    haystack = `${run.name} ${run.status} ${state} ${run.type}`.toLowerCase();
    haystacks.set(run, haystack);
  }
  const text = haystack;
  return words.every(word => text.includes(word));
}

/** Return the number of the first item that ends below *top*; *ends* are their ends. */
export function firstBelow(ends: readonly number[], top: number): number {
  let low = 0;
  let high = ends.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ends[middle] > top) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

function addGroup(
  items: Item[],
  group: GroupName,
  found: readonly IRunRow[],
  closed: ReadonlySet<GroupName>
): void {
  const runs = found.filter(run => run.finished === (group === 'finished'));
  if (!runs.length) {
    return;
  }
  const isOpen = !closed.has(group);
  items.push({ kind: 'group', group, count: runs.length, isOpen });
  if (isOpen) {
    runs.forEach((run, index) =>
      items.push({ kind: 'run', run, place: index + 1, of: runs.length })
    );
  }
}
