/**
 * Which editors are `%%dstack` cells: a look at their first letters, and no more for all others.
 *
 * The plugins that help while somebody types put what they have into such cells alone.
 */
import {
  Compartment,
  EditorState,
  Extension,
  Prec,
  Text
} from '@codemirror/state';

const MAGIC = /^\s*%%dstack(?![\w-])/;
/** So far the magic is looked for; blank lines may stand above it. */
const FAR = 64;

/** Tell whether *doc* begins with `%%dstack`. */
export function isOurs(doc: Text): boolean {
  return MAGIC.test(doc.sliceString(0, FAR));
}

/** Return the number of the magic's line, from 1, and its words; null for another cell. */
export function magicOf(doc: Text): { line: number; words: string[] } | null {
  if (!isOurs(doc)) {
    return null;
  }
  let number = 1;
  while (doc.line(number).text.trim() === '') {
    number++;
  }
  const words = doc.line(number).text.trim().split(/\s+/).slice(1);
  return { line: number, words };
}

/** Return *doc*'s magic if its body is a configuration, not a question to a model. */
export function configurationOf(
  doc: Text
): { line: number; kind: string } | null {
  const magic = magicOf(doc);
  const kind = magic?.words[0];
  return magic && kind && kind !== 'chat' ? { line: magic.line, kind } : null;
}

/**
 * Return *support* for an editor that holds *source*: there while, and only while, the editor's
 * text begins with `%%dstack`.
 */
export function whileOurs(support: Extension, source: string): Extension {
  const place = new Compartment();
  const begins = MAGIC.test(source.slice(0, FAR));
  return [
    Prec.high(place.of(begins ? support : [])),
    EditorState.transactionExtender.of(change => {
      if (!change.docChanged) {
        return null;
      }
      const is = isOurs(change.newDoc);
      const was = place.get(change.startState) === support;
      return is === was
        ? null
        : { effects: place.reconfigure(is ? support : []) };
    })
  ];
}
