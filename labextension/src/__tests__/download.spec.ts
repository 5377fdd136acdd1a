import { describe, expect, it } from 'vitest';

import { textOf } from '../logs/download';
import { ILogPiece } from '../records';

async function* of(...pieces: Partial<ILogPiece>[]): AsyncGenerator<ILogPiece> {
  for (const piece of pieces) {
    yield { offset: 0, at: '', text: '', ...piece };
  }
}

const another = (job?: string) => `another ${job ?? ''}`;

describe('a download', () => {
  it('has every line, as a terminal would show it', async () => {
    const lines = Array.from(
      { length: 12_345 },
      (_, number) => `line ${number}`
    );
    const parts = await textOf(
      of({ text: '\x1b[31m10%\r20%\n' }, { text: lines.join('\n') }),
      another
    );
    expect(parts.join('')).toBe(['20%', ...lines, ''].join('\n'));
    expect(parts.length).toBeGreaterThan(10);
  });

  it('says where another attempt begins and what was left out', async () => {
    const parts = await textOf(
      of(
        { text: 'a', job: 'x/1' },
        { text: '5 MB left out', job: 'x/1', stream: 'cut' },
        { text: 'b\n', job: 'x/2' }
      ),
      another
    );
    expect(parts.join('')).toBe('a\n5 MB left out\nanother x/2\nb\n');
  });

  it('of nothing is empty', async () => {
    expect(await textOf(of(), another)).toEqual([]);
  });
});
