import { describe, expect, it, vi } from 'vitest';

import { IRunRow } from '../records';
import { isTold, noticeOf } from '../status/endings';
import { Gathering } from '../status/gathering';

const trans = {
  __: (text: string, ...values: any[]) =>
    text.replace(/%(\d)/g, (_, at) => String(values[Number(at) - 1])),
  _n: (one: string, many: string, count: number) => (count === 1 ? one : many)
};

function ended(name: string, more: Partial<IRunRow> = {}): IRunRow {
  return {
    name,
    type: 'task',
    status: 'done',
    finished: true,
    reason: 'ended by itself with exit code 0',
    detail: null,
    waiting: null,
    submitted_at: '2026-01-01T00:00:00+00:00',
    started_at: '2026-01-01T00:00:01+00:00',
    finished_at: '2026-01-01T00:03:12+00:00',
    price: 0,
    cost: 0,
    as_of: '2026-01-01T00:03:12+00:00',
    exit_code: 0,
    backend: 'local',
    resources: null,
    project: null,
    ports: [],
    ...more
  };
}

const failed = (name: string, more: Partial<IRunRow> = {}) =>
  ended(name, {
    status: 'failed',
    reason: 'ended by itself with exit code 1',
    exit_code: 1,
    ...more
  });

describe('the end of a run', () => {
  it('is told as it was wished', () => {
    expect(isTold(ended('a'), 'all', false)).toBe(true);
    expect(isTold(ended('a'), 'failures', false)).toBe(false);
    expect(isTold(failed('a'), 'failures', false)).toBe(true);
    expect(isTold(failed('a'), 'none', false)).toBe(false);
  });

  it('is not told to who has stopped it, unless it ended by itself', () => {
    expect(isTold(ended('a', { status: 'terminated' }), 'all', true)).toBe(
      false
    );
    expect(isTold(ended('a'), 'all', true)).toBe(true);
    expect(isTold(failed('a'), 'all', true)).toBe(true);
  });

  it('has its time, and its cost where there is one', () => {
    expect(noticeOf([ended('train')], trans)).toEqual({
      kind: 'success',
      message: 'train is done after 3m 12s'
    });
    expect(noticeOf([ended('train', { cost: 0.42 })], trans).message).toBe(
      'train is done after 3m 12s, for $0.42'
    );
  });

  it('has the reason and the detail of a failure', () => {
    expect(
      noticeOf([failed('train', { detail: 'no such file' })], trans)
    ).toEqual({
      kind: 'error',
      message:
        'train failed: it ended by itself with exit code 1 (no such file)'
    });
  });

  it('by somebody else is no failure', () => {
    const run = ended('train', {
      status: 'terminated',
      reason: 'was stopped by its user'
    });
    expect(noticeOf([run], trans)).toEqual({
      kind: 'info',
      message: 'train was stopped by its user'
    });
  });

  it('is never longer than what is shown', () => {
    const { message } = noticeOf(
      [failed('train', { detail: 'x'.repeat(500) })],
      trans
    );
    expect(message).toHaveLength(140);
    expect(message.endsWith('…')).toBe(true);
  });
});

describe('several ends', () => {
  it('are one notice, failures first', () => {
    const runs = [ended('a'), failed('b'), ended('c'), ended('d'), ended('e')];
    expect(noticeOf(runs, trans)).toEqual({
      kind: 'error',
      message: '5 runs have ended: 1 failed (b); 4 done (a, c, d, …)'
    });
    expect(noticeOf([ended('a'), ended('b')], trans).kind).toBe('success');
  });

  it('are gathered for a while', () => {
    vi.useFakeTimers();
    const told: string[][] = [];
    const gathering = new Gathering<string>(700, all => told.push(all));
    gathering.add('a');
    vi.advanceTimersByTime(600);
    gathering.add('b');
    vi.advanceTimersByTime(100);
    gathering.add('c');
    vi.advanceTimersByTime(700);
    gathering.add('d');
    gathering.dispose();
    vi.advanceTimersByTime(10_000);
    vi.useRealTimers();
    expect(told).toEqual([['a', 'b'], ['c']]);
  });
});
