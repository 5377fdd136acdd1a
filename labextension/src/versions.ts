/** What is to be said when the page and the server are of different versions. */
import { TranslationBundle } from '@jupyterlab/translation';

/** Return below 0 if *one* is older than *other*, above 0 if newer: numbers first, then text. */
export function compareVersions(one: string, other: string): number {
  const ours = one.split('.');
  const theirs = other.split('.');
  for (let at = 0; at < Math.max(ours.length, theirs.length); at++) {
    const difference = parseInt(ours[at] ?? '0') - parseInt(theirs[at] ?? '0');
    if (difference) {
      return difference;
    }
  }
  return one < other ? -1 : Number(one > other);
}

/** Return a sentence that names both versions and says what to do; null where they are equal. */
export function mismatch(
  page: string,
  server: string,
  trans: TranslationBundle
): string | null {
  if (page === server) {
    return null;
  }
  return compareVersions(page, server) < 0
    ? trans.__(
        'dstack-jupyter: this page is still version %1, the server has %2. Reload the page.',
        page,
        server
      )
    : trans.__(
        'dstack-jupyter: this page is version %1, the server is still %2. Restart Jupyter.',
        page,
        server
      );
}
