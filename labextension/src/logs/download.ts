/** The whole output as text, also what the panel has let go of. */
import { ILogPiece } from '../records';
import { Line, LogScreen } from './screen';

/** Lines in one part of the file. */
const KEPT = 2_000;

/** Return the text that a terminal would show of *pieces*, in parts, lines ended. */
export async function textOf(
  pieces: AsyncIterable<ILogPiece>,
  another: (job: string | undefined) => string
): Promise<string[]> {
  const parts: string[] = [];
  const put = (lines: readonly Line[]) =>
    parts.push(lines.map(line => `${line.text.trimEnd()}\n`).join(''));
  const screen = new LogScreen({ limit: KEPT, onDrop: put });
  let job: string | undefined;
  let isFirst = true;
  for await (const piece of pieces) {
    if (!isFirst && piece.job !== job) {
      screen.mark(another(piece.job));
    }
    isFirst = false;
    job = piece.job;
    if (piece.stream === 'cut') {
      screen.mark(piece.text);
    } else {
      screen.write(piece.text);
    }
  }
  const rest = screen.text();
  return rest ? [...parts, `${rest}\n`] : parts;
}

/** Have the browser save *parts* as a file. */
export function save(parts: string[], name: string): void {
  const blob = new Blob(parts, { type: 'text/plain;charset=utf-8' });
  const url = URL.createObjectURL(blob);
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  // The browser reads it after this.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
