import { describe, expect, it } from 'vitest';

import { LogScreen } from '../logs/screen';
import { LogSearch, MAX_MATCHES } from '../logs/search';

const never = () => false;

function screenOf(text: string, options?: LogScreen.IOptions): LogScreen {
  const screen = new LogScreen(options);
  screen.write(text);
  return screen;
}

function found(screen: LogScreen, query: string): [number, number, number][] {
  const search = new LogSearch(screen, query);
  search.scan(never);
  return search.matches.map(match => [match.line, match.start, match.stop]);
}

describe('a search in a log', () => {
  it('finds every place, whatever the case', () => {
    const screen = screenOf('Loss 1\nno\nloss, LOSS');
    expect(found(screen, 'loss')).toEqual([
      [0, 0, 4],
      [2, 0, 4],
      [2, 6, 10]
    ]);
  });

  it('minds the case of a query with upper case', () => {
    expect(found(screenOf('Loss loss'), 'Loss')).toEqual([[0, 0, 4]]);
  });

  it('takes the query as it is written', () => {
    expect(found(screenOf('a.b axb [/b] a.b'), 'a.b')).toHaveLength(2);
    expect(found(screenOf('x [/b] (\\d+)'), '[/b] (\\d+)')).toHaveLength(1);
  });

  it('finds words that colours run through', () => {
    expect(found(screenOf('er\x1b[31mr\x1b[0mor'), 'error')).toEqual([
      [0, 0, 5]
    ]);
  });

  it('goes round in both directions, from where the reader is', () => {
    const search = new LogSearch(screenOf('a\nb\na\nb\na'), 'a');
    search.scan(never);
    expect(search.go(1, 1)?.line).toBe(2);
    expect(search.go(1, 0)?.line).toBe(4);
    expect(search.go(1, 0)?.line).toBe(0);
    expect(search.go(-1, 0)?.line).toBe(4);
    expect(search.current).toBe(2);

    const backwards = new LogSearch(screenOf('a\nb\na\nb\na'), 'a');
    backwards.scan(never);
    expect(backwards.go(-1, 3)?.line).toBe(2);
    expect(new LogSearch(screenOf(''), 'a').go(1, 0)).toBeUndefined();
  });

  it('works in slices and is taken up where it was', () => {
    const screen = screenOf('hit\n'.repeat(2_000));
    const search = new LogSearch(screen, 'hit');
    let slices = 1;
    while (!search.scan(() => true)) {
      slices += 1;
    }
    expect(slices).toBe(4);
    expect(search.matches).toHaveLength(2_000);
  });

  it('goes on as the output grows, and keeps its place', () => {
    const screen = screenOf('one\ntwo\n');
    const search = new LogSearch(screen, 'o');
    search.scan(never);
    search.go(1, 0);
    search.go(1, 0);
    screen.write('four\n'.repeat(1_000));
    search.scan(never);
    search.scan(never);
    expect(search.matches).toHaveLength(1_002);
    expect(search.current).toBe(1);
    expect(search.in(1)).toEqual([{ line: 1, start: 2, stop: 3 }]);
    expect(search.in(0)).toHaveLength(1);
    expect(search.in(5_000)).toHaveLength(0);
  });

  it('forgets what a progress bar has written over', () => {
    const screen = screenOf('10%');
    const search = new LogSearch(screen, '10%');
    search.scan(never);
    expect(search.matches).toHaveLength(1);
    screen.write('\r20%');
    search.scan(never);
    expect(search.matches).toHaveLength(0);
    expect(search.current).toBe(-1);
  });

  it('forgets lines that were let go', () => {
    const screen = screenOf('hit\n', { limit: 400 });
    const search = new LogSearch(screen, 'hit');
    search.scan(never);
    screen.write('x\n'.repeat(2_000) + 'hit\n');
    search.scan(never);
    expect(search.matches.map(match => match.line)).toEqual([2_001]);
  });

  it('is bounded', () => {
    const screen = screenOf('x'.repeat(9_000).concat('\n').repeat(15));
    const search = new LogSearch(screen, 'x');
    expect(search.scan(never)).toBe(true);
    expect(search.isCut).toBe(true);
    expect(search.matches).toHaveLength(MAX_MATCHES);
  });
});
