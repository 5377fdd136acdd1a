/** How far the next line of a `%%dstack` cell is indented: YAML's habits, two spaces a step. */
import { indentService, indentUnit } from '@codemirror/language';
import { Extension } from '@codemirror/state';

import { configurationOf } from './cells';
import { scalarBelow } from './scalars';

const STEP = 2;
const PARTS = /^(?<indent> *)(?<dashes>(?:- +)*)(?<rest>.*)$/;
const KEY = /^(?:[^\s#'"{[-][^#]*?|"[^"]*"|'[^']*'):(?<value>\s.*)?$/;

/** Return the column at which the line below *line* begins; *line* ends where it is broken. */
export function indentAfter(line: string): number {
  const { indent, dashes, rest } = PARTS.exec(
    line.replace(/(\S)\s+#.*$/, '$1')
  )!.groups as Record<string, string>;
  const scalar = scalarBelow(line);
  if (scalar !== null) {
    return scalar + STEP;
  }
  if (rest.startsWith('#')) {
    return indent.length;
  }
  const inner = indent.length + dashes.length;
  const key = KEY.exec(rest.trimEnd());
  if (key) {
    const value = key.groups!.value?.trim() ?? '';
    return value === '' || /^[&!]\S+$/.test(value) || isOpen(value)
      ? inner + STEP
      : inner;
  }
  if (isOpen(rest)) {
    return inner + STEP;
  }
  return dashes ? indent.length + dashes.lastIndexOf('-') : indent.length;
}

/** Return the habits, for the editor of such a cell. */
export function indentation(): Extension {
  return [
    indentUnit.of(' '.repeat(STEP)),
    indentService.of((context, at) => {
      const magic = configurationOf(context.state.doc);
      if (context.simulatedBreak === null || !magic) {
        return null;
      }
      const number = context.state.doc.lineAt(at).number;
      return number <= magic.line
        ? 0
        : indentAfter(context.lineAt(at, -1).text);
    })
  ];
}

function isOpen(text: string): boolean {
  return /[{[][^\]}]*$/.test(text.replace(/"[^"]*"|'[^']*'/g, ''));
}
