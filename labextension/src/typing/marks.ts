/** Where the problems of a cell stand in its text. */
import { Text } from '@codemirror/state';

import { IProblem } from '../records';

/** A stretch of text that is wrong, and why. */
export interface IMark {
  from: number;
  to: number;
  message: string;
}

/** So many problems are marked at most. */
const MOST = 100;

/** Return a mark for each place of *problems*, in the order of the text; none is empty. */
export function marksOf(doc: Text, problems: readonly IProblem[]): IMark[] {
  const marks = new Map<number, IMark>();
  for (const problem of problems.slice(0, MOST)) {
    const place = stretch(doc, problem);
    const message = problem.key
      ? `${problem.key}: ${problem.message}`
      : problem.message;
    const there = marks.get(place.from);
    marks.set(
      place.from,
      there
        ? {
            from: there.from,
            to: Math.max(there.to, place.to),
            message: `${there.message}\n${message}`
          }
        : { ...place, message }
    );
  }
  return [...marks.values()]
    .filter(mark => mark.from < mark.to)
    .sort((one, other) => one.from - other.from);
}

/** Return the mark at *place*, or the only one of its line; null if there is none. */
export function markAt(
  doc: Text,
  marks: readonly IMark[],
  place: number
): IMark | null {
  const inside = marks.find(mark => mark.from <= place && place <= mark.to);
  if (inside) {
    return inside;
  }
  const line = doc.lineAt(place);
  const ofLine = marks.filter(
    mark => line.from <= mark.from && mark.from <= line.to
  );
  return ofLine.length === 1 ? ofLine[0] : null;
}

/** Return the mark after *place*, or the first one behind the last. */
export function markAfter(
  marks: readonly IMark[],
  place: number
): IMark | null {
  return marks.find(mark => mark.from > place) ?? marks[0] ?? null;
}

/** Return the word at the problem's place, or the line where none stands there. */
function stretch(doc: Text, problem: IProblem): { from: number; to: number } {
  const number = Math.min(Math.max(problem.line, 1), doc.lines);
  const line = doc.line(number);
  const column = Math.max(problem.column, 1) - 1;
  const word = /^[^\s:,{}[\]]+/.exec(line.text.slice(column));
  if (word) {
    const from = line.from + column;
    return { from, to: from + word[0].length };
  }
  const before = /[^\s:,{}[\]]+$/.exec(line.text.slice(0, column));
  if (before && line.text.slice(column).trim() === '') {
    const from = line.from + before.index;
    return { from, to: from + before[0].length };
  }
  const begins = line.text.search(/\S/);
  const ends = line.text.trimEnd().length;
  if (begins >= 0) {
    const from = Math.min(column, ends - 1);
    return { from: line.from + Math.max(from, begins), to: line.from + ends };
  }
  return nearestText(doc, number);
}

/** Return the text of the line above that has any: an empty stretch would not be seen. */
function nearestText(doc: Text, number: number): { from: number; to: number } {
  for (let above = number; above > 0; above--) {
    const line = doc.line(above);
    const begins = line.text.search(/\S/);
    if (begins >= 0) {
      const to = line.from + line.text.trimEnd().length;
      return { from: line.from + begins, to };
    }
  }
  return { from: 0, to: Math.min(1, doc.length) };
}
