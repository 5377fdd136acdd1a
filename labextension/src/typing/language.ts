/** The language of a `%%dstack` cell: its first line as a magic, the rest as YAML. */
import { LanguageSupport, StreamLanguage } from '@codemirror/language';
import type { StreamParser, StringStream } from '@codemirror/language';
import { yaml } from '@codemirror/legacy-modes/mode/yaml';

import { indentation } from './indentation';
import { scalarBelow } from './scalars';

interface IState {
  /** The magic's line is read. */
  begun: boolean;
  /** `task`, `chat`, …; empty until it is read. */
  verb: string;
  /** Where text over many lines stands right of; null outside of such. */
  scalar: number | null;
  /** The line is a part of such a text. */
  inScalar: boolean;
  yaml: any;
}

/** Words without a colour. They are tokens, too: the completer tells by them what is begun. */
const PLAIN = 'content';

/** The parser, by lines; names of tokens are those of CodeMirror's tags. */
export const parser: StreamParser<IState> = {
  name: 'dstack',
  startState: unit => ({
    begun: false,
    verb: '',
    scalar: null,
    inScalar: false,
    yaml: yaml.startState!(unit)
  }),
  copyState: state => ({ ...state, yaml: { ...state.yaml } }),
  token: (stream, state) => {
    if (!state.begun || (stream.pos > 0 && isMagic(stream))) {
      return magicToken(stream, state);
    }
    if (state.verb === 'chat') {
      stream.skipToEnd();
      return null;
    }
    return yamlToken(stream, state);
  },
  languageData: { commentTokens: { line: '#' } }
};

/** Return the language with its indentation, as an extension of an editor. */
export function dstackLanguage(): LanguageSupport {
  return new LanguageSupport(StreamLanguage.define(parser), indentation());
}

function isMagic(stream: StringStream): boolean {
  return /^\s*%%dstack(?![\w-])/.test(stream.string);
}

function magicToken(stream: StringStream, state: IState): string | null {
  if (stream.eatSpace()) {
    return null;
  }
  if (stream.match('%%dstack')) {
    state.begun = true;
    return 'meta';
  }
  if (stream.match(/^--?[A-Za-z][\w-]*/)) {
    return 'attributeName';
  }
  if (stream.match(/^(?:"(?:[^"\\]|\\.)*"?|'[^']*'?)/)) {
    return 'string';
  }
  if (stream.match(/^\$\w+/)) {
    return 'variableName';
  }
  if (stream.match(/^\d[\d.]*(?=\s|$)/)) {
    return 'number';
  }
  const word = stream.match(/^\S+/) as string[];
  if (state.begun && state.verb === '') {
    state.verb = word[0];
    return 'keyword';
  }
  return PLAIN;
}

function yamlToken(stream: StringStream, state: IState): string | null {
  if (stream.sol() && /\S/.test(stream.string)) {
    state.inScalar =
      state.scalar !== null && stream.indentation() > state.scalar;
    state.scalar = state.inScalar ? state.scalar : scalarBelow(stream.string);
  }
  if (state.inScalar) {
    return stream.eatSpace() || !stream.match(/^\S+/) ? null : 'string';
  }
  if (isInsideWord(stream)) {
    stream.next();
    return PLAIN;
  }
  const style = yaml.token(stream, state.yaml);
  state.yaml.literal = false; // it takes the dash's column for the key's
  if (style === null && /\S/.test(stream.current())) {
    return PLAIN;
  }
  return style === 'atom' ? 'propertyName' : style;
}

/** Tell whether a quote is next that stands for itself, as in `it's`. */
function isInsideWord(stream: StringStream): boolean {
  const before = stream.string[stream.pos - 1];
  return /['"]/.test(stream.peek() ?? '') && /[\w.)\]]/.test(before ?? ' ');
}
