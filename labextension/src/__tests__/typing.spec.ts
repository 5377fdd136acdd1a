import {
  getIndentation,
  IndentContext,
  StringStream
} from '@codemirror/language';
import { EditorState, StateField, Text } from '@codemirror/state';
import { describe, expect, it } from 'vitest';

import { configurationOf, isOurs, magicOf, whileOurs } from '../typing/cells';
import { indentAfter, indentation } from '../typing/indentation';
import { keyAt } from '../typing/keys';
import { parser } from '../typing/language';
import { markAfter, markAt, marksOf } from '../typing/marks';
import { scalarBelow } from '../typing/scalars';

const textOf = (source: string) => Text.of(source.split('\n'));

/** The tokens of *source* by lines, as `style:text`; what has no style is left out. */
function tokens(source: string): string[][] {
  const state = parser.startState!(2);
  return source.split('\n').map(line => {
    const found: string[] = [];
    const stream = new StringStream(line, 2, 2);
    while (!stream.eol()) {
      const style = parser.token(stream, state);
      const text = stream.current().trim();
      if (style && style !== 'content' && text) {
        found.push(`${style}:${text}`);
      }
      stream.start = stream.pos;
    }
    return found;
  });
}

describe('a cell of ours', () => {
  it.each([
    ['%%dstack task', true],
    ['%%dstack', true],
    ['\n\n  %%dstack task\nx: 1', true],
    ['%%dstackx task', false],
    ['%dstack ps', false],
    ['x = 1\n%%dstack task', false],
    ['', false]
  ])('is known by its first line: %j', (source, is) => {
    expect(isOurs(textOf(source))).toBe(is);
  });

  it('tells its words and where they are', () => {
    expect(magicOf(textOf('\n%%dstack task -n a\nx: 1'))).toEqual({
      line: 2,
      words: ['task', '-n', 'a']
    });
    expect(configurationOf(textOf('%%dstack chat m\nhello'))).toBeNull();
    expect(configurationOf(textOf('%%dstack'))).toBeNull();
  });
});

describe('what is put into cells of ours', () => {
  const here = StateField.define<boolean>({
    create: () => true,
    update: value => value
  });
  const isThere = (state: EditorState) => state.field(here, false) === true;
  const stateOf = (doc: string) =>
    EditorState.create({ doc, extensions: whileOurs(here, doc) });

  it('is there from the start, goes and comes with the first line', () => {
    let state = stateOf('%%dstack task');
    expect(isThere(state)).toBe(true);
    state = state.update({ changes: { from: 0, insert: '#' } }).state;
    expect(isThere(state)).toBe(false);
    state = state.update({ changes: { from: 0, to: 1 } }).state;
    expect(isThere(state)).toBe(true);
  });

  it('stays as it is while the body is written', () => {
    const state = stateOf('%%dstack task\n');
    const change = state.update({ changes: { from: 14, insert: 'commands:' } });
    expect(change.effects).toHaveLength(0);
    expect(isThere(change.state)).toBe(true);
  });

  it('never comes into another cell', () => {
    const change = stateOf('print(1)').update({
      changes: { from: 8, insert: '\nx = 1' }
    });
    expect(change.effects).toHaveLength(0);
    expect(isThere(change.state)).toBe(false);
  });
});

describe('the language', () => {
  it('reads the first line as a magic', () => {
    expect(tokens('%%dstack task --name "a b" -y --cpu 4 $x rest')[0]).toEqual([
      'meta:%%dstack',
      'keyword:task',
      'attributeName:--name',
      'string:"a b"',
      'attributeName:-y',
      'attributeName:--cpu',
      'number:4',
      'variableName:$x'
    ]);
  });

  it('reads the rest as YAML', () => {
    const [, , commands, item, resources, gpu, comment] = tokens(
      '\n%%dstack task\ncommands:\n  - echo 1\nresources:\n  gpu: "A100"\n# why'
    );
    expect(commands).toEqual(['propertyName:commands', 'meta::']);
    expect(item).toEqual(['meta:-']);
    expect(resources[0]).toBe('propertyName:resources');
    expect(gpu).toEqual(['propertyName:gpu', 'meta::', 'string:"A100"']);
    expect(comment).toEqual(['comment:# why']);
  });

  it('paints text over many lines as text, to its end', () => {
    const [, , , first, blank, second, after] = tokens(
      '%%dstack task\ncommands:\n  - |\n    if x: y # z\n\n    echo "a\nenv: {A: 1}'
    );
    expect(first.join(' ')).toBe(
      'string:if string:x: string:y string:# string:z'
    );
    expect(blank).toEqual([]);
    expect(second).toEqual(['string:echo', 'string:"a']);
    expect(after[0]).toBe('propertyName:env');
  });

  it('ends text below a key in a list at the next key', () => {
    const [, , , other] = tokens(
      '%%dstack task\n- run: |\n    x: 1\n  other: 2'
    );
    expect(other[0]).toBe('propertyName:other');
  });

  it('takes an apostrophe for itself', () => {
    const [, line] = tokens("%%dstack task\nname: it's here");
    expect(line.filter(token => token.startsWith('string'))).toEqual([]);
  });

  it('leaves a question to a model alone', () => {
    expect(tokens('%%dstack chat m\nname: what\n- "is"')).toEqual([
      ['meta:%%dstack', 'keyword:chat'],
      [],
      []
    ]);
  });
});

describe('text over many lines', () => {
  it.each([
    ['commands: |', 0],
    ['  - |', 2],
    ['  - >-  # folded', 2],
    ['  - run: |', 4],
    ['  script: &a |2', 2],
    ['a: b | c', null],
    ['|', null],
    ['a:', null]
  ])('begins at %j right of column %j', (line, column) => {
    expect(scalarBelow(line)).toBe(column);
  });
});

describe('the next line', () => {
  it.each([
    ['commands:', 2],
    ['  gpu:', 4],
    ['  - type: http', 4],
    ['  - probe:', 6],
    ['  - echo 1', 2],
    ['name: train', 0],
    ['  name: train', 2],
    ['commands: |', 2],
    ['  - |', 4],
    ['env: &e', 2],
    ['resources: {', 2],
    ['resources: {gpu: A100}', 0],
    ['resources:  # what it needs', 2],
    ['  # resources:', 2],
    ['url: http://x:', 0],
    ['', 0]
  ])('below %j begins at column %j', (line, column) => {
    expect(indentAfter(line)).toBe(column);
  });

  it('is asked of the editor only where a line is broken, and below the magic', () => {
    const doc = '%%dstack task\nresources:';
    const state = EditorState.create({ doc, extensions: indentation() });
    const at = (place: number) =>
      getIndentation(new IndentContext(state, { simulateBreak: place }), place);
    expect(at(doc.length)).toBe(2);
    expect(at(13)).toBe(0);
    expect(getIndentation(state, 14)).toBeNull();
  });
});

describe('the key at a place', () => {
  const CELL = `%%dstack task
resources:
  # none
  gpu:
    name: [A100]
commands:
  - |
    gpu: none
probes:
  - url: /
    method: get
scaling: {metric: rps, a: {target: 4}, window: 1m}`;
  const keyOf = (word: string) => {
    const doc = textOf(CELL);
    return keyAt(doc, CELL.indexOf(word) + 1, 1);
  };

  it.each([
    ['resources', 'resources'],
    ['gpu:', 'resources.gpu'],
    ['name', 'resources.gpu.name'],
    ['commands', 'commands'],
    ['url', 'probes.url'],
    ['method', 'probes.method'],
    ['metric', 'scaling.metric'],
    ['target', 'scaling.a.target'],
    ['window', 'scaling.window']
  ])('%s is %s', (word, path) => {
    const key = keyOf(word)!;
    expect(key.path).toBe(path);
    expect(CELL.slice(key.from, key.to)).toBe(path.split('.').pop());
  });

  it.each(['A100', 'gpu: none', '# none', '%%dstack', 'rps', '/'])(
    '%s is none',
    word => {
      expect(keyOf(word)).toBeNull();
    }
  );
});

describe('marks', () => {
  const CELL = '%%dstack task\nnme: x\nresources:\n  gpu: 12 GB # big\n\n';
  const doc = textOf(CELL);
  const wordOf = (line: number, column: number) => {
    const problem = { line, column, key: '', message: 'no' };
    const [mark] = marksOf(doc, [problem]);
    return CELL.slice(mark.from, mark.to);
  };

  it.each([
    [2, 1, 'nme'],
    [4, 8, '12'],
    [3, 10, ':'],
    [1, 1, '%%dstack'],
    [0, 0, '%%dstack'],
    [2, 99, 'x'],
    [2, 7, 'x'],
    [5, 1, 'gpu: 12 GB # big'],
    [99, 1, 'gpu: 12 GB # big']
  ])('at %j:%j stand on %j', (line, column, word) => {
    expect(wordOf(line, column)).toBe(word);
  });

  it('of an empty text there are none', () => {
    const problem = { line: 3, column: 3, key: '', message: 'no' };
    expect(marksOf(Text.empty, [problem])).toEqual([]);
  });

  it('say the key, and all that is wrong with one place', () => {
    const [first, second, ...more] = marksOf(doc, [
      { line: 4, column: 8, key: 'resources.gpu', message: 'is wrong' },
      { line: 2, column: 1, key: 'nme', message: 'is not a known key' },
      { line: 2, column: 1, key: '', message: 'and more' }
    ]);
    expect(first.message).toBe('nme: is not a known key\nand more');
    expect(second.message).toBe('resources.gpu: is wrong');
    expect(more).toEqual([]);
    expect(markAt(doc, [first, second], first.to)).toBe(first);
    expect(markAt(doc, [first, second], first.to + 3)).toBe(first);
    expect(markAt(doc, [first, second], doc.length)).toBeNull();
    expect(markAfter([first, second], first.from)).toBe(second);
    expect(markAfter([first, second], second.from)).toBe(first);
    expect(markAfter([], 0)).toBeNull();
  });
});
