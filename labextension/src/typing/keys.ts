/** Which key of a configuration stands at a place: `resources.gpu`, by the lines above it. */
import { Text } from '@codemirror/state';

import { scalarBelow } from './scalars';

const LINE =
  /^(?<indent> *(?:- +)*)(?<key>[A-Za-z_][\w.-]*) *:(?<value>\s.*|)$/;
const NOTHING = /^\s*(?:#.*|&\w+\s*)?$/;
/** So many lines above are read at most. */
const FARTHEST = 2000;

/** A key and where it stands in the text. */
export interface IKey {
  /** The keys above it and itself, joined by dots. */
  path: string;
  from: number;
  to: number;
}

/** Return the key at *place* of *doc*, whose body begins below line *magic*; null for no key. */
export function keyAt(doc: Text, place: number, magic: number): IKey | null {
  const line = doc.lineAt(place);
  const found = LINE.exec(line.text)?.groups;
  if (line.number <= magic || !found) {
    return null;
  }
  const column = place - line.from;
  const start = found.indent.length;
  const above = pathAbove(doc, line.number, start, magic);
  if (above === null || column < start) {
    return null;
  }
  const path = [...above, found.key];
  if (column <= start + found.key.length) {
    const from = line.from + start;
    return { path: path.join('.'), from, to: from + found.key.length };
  }
  const value = line.text.length - found.value.trimStart().length;
  const inner = keyInFlow(line.text.slice(value), column - value);
  return inner
    ? {
        path: [...path, ...inner.path].join('.'),
        from: line.from + value + inner.from,
        to: line.from + value + inner.to
      }
    : null;
}

/** Return the keys that a line stands below; null if it is a part of a text. */
function pathAbove(
  doc: Text,
  number: number,
  indent: number,
  magic: number
): string[] | null {
  const path: string[] = [];
  const last = Math.max(magic, number - FARTHEST);
  for (let above = number - 1; above > last && indent > 0; above--) {
    const { text } = doc.line(above);
    const column = text.search(/[^ ]/);
    if (column < 0 || text[column] === '#') {
      continue;
    }
    const scalar = scalarBelow(text);
    if (scalar !== null && scalar < indent) {
      return null;
    }
    const found = LINE.exec(text)?.groups;
    if (!found || found.indent.length >= indent) {
      continue;
    }
    if (!NOTHING.test(found.value)) {
      return null;
    }
    path.unshift(found.key);
    indent = found.indent.length;
  }
  return path;
}

/** Return the key at *column* of *text*, such as `{cpu: 4, gpu: {name: A100}}`. */
function keyInFlow(
  text: string,
  column: number
): { path: string[]; from: number; to: number } | null {
  if (!/^[{[]/.test(text)) {
    return null;
  }
  const path: string[] = [];
  const depths: number[] = [];
  for (const found of text.matchAll(
    /"[^"]*"|'[^']*'|[{}[\]]|(?<key>[A-Za-z_][\w.-]*)(?=:(?:\s|$))|,/g
  )) {
    const [token] = found;
    const from = found.index!;
    if (token === '{' || token === '[') {
      depths.push(path.length);
    } else if (token === '}' || token === ']') {
      path.length = depths.pop() ?? 0;
    } else if (token === ',') {
      path.length = depths[depths.length - 1] ?? 0;
    } else if (found.groups?.key) {
      path.push(token);
      if (from <= column && column <= from + token.length) {
        return { path: [...path], from, to: from + token.length };
      }
    }
  }
  return null;
}
