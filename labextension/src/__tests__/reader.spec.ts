import { describe, expect, it } from 'vitest';

import { LogReader, TAIL, rest } from '../logs/reader';
import { ILogPiece } from '../records';
import { Trouble } from '../tokens';

type Step = ILogPiece | Error | 'end' | 'wait';

const NETWORK = new Error('network');
const REFUSED = new Error('refused');

function piece(
  offset: number,
  text: string,
  more: Partial<ILogPiece> = {}
): ILogPiece {
  return { offset, at: '2026-01-01T00:00:00Z', text, ...more };
}

/** A server that answers by a script, one list of steps a request. */
class Script {
  constructor(...answers: Step[][]) {
    this.answers = answers;
    this.reader = new LogReader({
      open: (place, signal) => this.open(place, signal),
      take: each => this.heard.push(each.text),
      another: job => this.heard.push(`[another ${job ?? ''}]`),
      skipped: bytes => this.heard.push(`[${bytes} skipped]`),
      isOver: () => this.over,
      troubleOf: (error): Trouble =>
        error === NETWORK
          ? { kind: 'network' }
          : { kind: 'failed', message: String(error), hint: null },
      rest: async (milliseconds, signal) => {
        this.waits.push(milliseconds);
        await rest(0, signal);
      }
    });
    this.reader.changed.connect(() => {
      this.states.push(this.reader.state);
      this.waiting.forEach(check => check());
    });
  }

  async *open(
    place: LogReader.Place,
    signal: AbortSignal
  ): AsyncGenerator<ILogPiece> {
    this.asked.push(place);
    for (const step of this.answers.shift() ?? (['wait'] as Step[])) {
      if (step === 'wait') {
        this.waiting.forEach(check => check());
        await new Promise((_, reject) =>
          signal.addEventListener('abort', () => reject(new Error('aborted')))
        );
      } else if (step instanceof Error) {
        throw step;
      } else if (step !== 'end') {
        yield step;
      }
    }
  }

  /** Resolve once *true* holds. */
  until(true_: () => boolean): Promise<void> {
    return new Promise(resolve => {
      const check = () => true_() && resolve();
      this.waiting.push(check);
      check();
    });
  }

  readonly answers: Step[][];
  readonly reader: LogReader;
  readonly asked: LogReader.Place[] = [];
  readonly heard: string[] = [];
  readonly states: string[] = [];
  readonly waits: number[] = [];
  readonly waiting: (() => void)[] = [];
  over = false;
}

const ended = (script: Script) =>
  script.until(() => script.reader.state === 'ended');

describe('a reader of output', () => {
  it('reads the end of it, and follows until the run is over', async () => {
    const script = new Script([piece(2, 'a\n'), piece(4, 'b\n'), 'end']);
    script.over = true;
    script.reader.resume();
    await ended(script);
    expect(script.asked).toEqual([{ tail: TAIL }]);
    expect(script.heard).toEqual(['a\n', 'b\n']);
    expect(script.states).toEqual(['reading', 'ended']);
  });

  it('is taken up at its place after a break', async () => {
    const script = new Script(
      [piece(2, 'a\n'), NETWORK],
      [NETWORK],
      [NETWORK],
      [piece(4, 'b\n'), 'end']
    );
    script.over = true;
    script.reader.resume();
    await ended(script);
    expect(script.asked.slice(1)).toEqual([
      { offset: 2 },
      { offset: 2 },
      { offset: 2 }
    ]);
    expect(script.heard).toEqual(['a\n', 'b\n']);
    expect(script.waits).toEqual([250, 1000, 2000]);
    expect(script.states).toEqual([
      'reading',
      'broken',
      'broken',
      'reading',
      'ended'
    ]);
  });

  it('asks again when the answer ends before the run does', async () => {
    const script = new Script(
      [piece(2, 'a\n'), 'end'],
      [piece(4, 'b\n'), 'wait']
    );
    script.reader.resume();
    await script.until(() => script.heard.length === 2);
    expect(script.asked[1]).toEqual({ offset: 2 });
    expect(script.reader.state).toBe('reading');
    script.reader.dispose();
  });

  it('is paused and goes on where it was', async () => {
    const script = new Script(
      [piece(7, 'a\n'), 'wait'],
      [piece(9, 'b\n'), 'wait']
    );
    script.reader.resume();
    script.reader.resume();
    await script.until(() => script.heard.length === 1);
    script.reader.pause();
    expect(script.reader.state).toBe('paused');
    script.reader.resume();
    await script.until(() => script.heard.length === 2);
    expect(script.asked).toEqual([{ tail: TAIL }, { offset: 7 }]);
    script.reader.dispose();
  });

  it('says when another attempt prints, and when the beginning was left out', async () => {
    const script = new Script([
      piece(500, 'a\n', { start: 400, job: 'x/1' }),
      piece(2, 'b\n', { job: 'x/2' }),
      piece(4, 'c\n', { job: 'x/2' }),
      'end'
    ]);
    script.over = true;
    script.reader.resume();
    await ended(script);
    expect(script.heard).toEqual([
      '[400 skipped]',
      'a\n',
      '[another x/2]',
      'b\n',
      'c\n'
    ]);
  });

  it('reads from its beginning what another attempt printed during a break', async () => {
    const script = new Script(
      [piece(50, 'a\n', { start: 0, job: 'x/1' }), NETWORK],
      [piece(90, 'e\n', { start: 50, job: 'x/2' }), 'wait'],
      [piece(90, 'b\nc\nd\ne\n', { start: 0, job: 'x/2' }), 'end']
    );
    script.over = true;
    script.reader.resume();
    await ended(script);
    expect(script.asked).toEqual([
      { tail: TAIL },
      { offset: 50 },
      { offset: 0 }
    ]);
    expect(script.heard).toEqual(['a\n', '[another x/2]', 'b\nc\nd\ne\n']);
  });

  it('does not ask again what was refused, until it is told to', async () => {
    const script = new Script([REFUSED], [piece(2, 'a\n'), 'wait']);
    script.reader.resume();
    await script.until(() => script.reader.state === 'refused');
    expect(script.reader.trouble).toEqual({
      kind: 'failed',
      message: 'Error: refused',
      hint: null
    });
    script.reader.retry();
    await script.until(() => script.heard.length === 1);
    script.reader.dispose();
  });

  it('begins anew when told to, also after the end', async () => {
    const script = new Script(
      [piece(2, 'a\n'), 'end'],
      [piece(2, 'b\n'), 'end']
    );
    script.over = true;
    script.reader.resume();
    await ended(script);
    script.reader.resume();
    expect(script.asked).toHaveLength(1);
    script.reader.restart();
    await script.until(
      () => script.heard.length === 2 && script.reader.state === 'ended'
    );
    expect(script.asked).toEqual([{ tail: TAIL }, { tail: TAIL }]);
  });
});
