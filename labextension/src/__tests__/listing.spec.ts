import { describe, expect, it } from 'vitest';

import { actionsOf } from '../sidebar/actions';
import { firstBelow, Item, listRuns } from '../sidebar/listing';
import { CommandIDs } from '../tokens';
import { aDone, aRun } from './rows';

const trans = {
  __: (text: string, ...values: any[]) =>
    text.replace(/%(\d)/g, (_, number) => String(values[number - 1])),
  _n: (one: string) => one
};

function names(items: readonly Item[]): string[] {
  return items.map(item =>
    item.kind === 'run' ? item.run.name : `[${item.group} ${item.count}]`
  );
}

describe('the list of runs', () => {
  const runs = [
    aDone('owl'),
    aRun('fox'),
    aRun('chat', { type: 'service', status: 'submitted' }),
    aDone('hen', { status: 'failed' })
  ];

  it('has the active before the finished', () => {
    const listing = listRuns(runs, '', new Set());
    expect(names(listing.items)).toEqual([
      '[active 2]',
      'fox',
      'chat',
      '[finished 2]',
      'owl',
      'hen'
    ]);
    expect(listing.matching).toBe(4);
  });

  it.each([
    ['FOX', ['fox']],
    ['service', ['chat']],
    ['failed', ['hen']],
    ['active ch', ['chat']],
    ['  ', ['fox', 'chat', 'owl', 'hen']],
    ['nothing such', []]
  ])('is filtered by name, status and type: %j', (filter, found) => {
    const { items, matching, total } = listRuns(runs, filter, new Set());
    expect(names(items).filter(name => !name.startsWith('['))).toEqual(found);
    expect([matching, total]).toEqual([found.length, 4]);
  });

  it('shows of a closed group how many it has', () => {
    const { items } = listRuns(runs, '', new Set(['finished' as const]));
    expect(names(items)).toEqual(['[active 2]', 'fox', 'chat', '[finished 2]']);
  });

  it('tells each run its place', () => {
    const places = listRuns(runs, '', new Set()).items.flatMap(item =>
      item.kind === 'run' ? [[item.place, item.of]] : []
    );
    expect(places).toEqual([
      [1, 2],
      [2, 2],
      [1, 2],
      [2, 2]
    ]);
  });

  it('finds the first row of a place by halves', () => {
    const ends = [26, 70, 114];
    expect([0, 25, 26, 69, 113, 114].map(top => firstBelow(ends, top))).toEqual(
      [0, 0, 1, 1, 2, 3]
    );
    expect(firstBelow([], 10)).toBe(0);
  });
});

describe('what can be done with a run', () => {
  const labels = (...args: Parameters<typeof actionsOf>) =>
    actionsOf(...args).map(action => action.label);
  const port = { port: 8000, local_port: 8000, url: '', proxy: '' };

  it('depends on its state', () => {
    const ports = [port, { ...port, port: 80 }, { ...port, port: 81 }];
    expect(labels(aRun('fox', { ports }), false, trans)).toEqual([
      'Logs of fox',
      'Open port 8000 of fox',
      'Open port 80 of fox',
      'Stop fox'
    ]);
    expect(labels(aDone('fox', { ports }), false, trans)).toEqual([
      'Logs of fox',
      'Run fox again'
    ]);
    const leaving = aRun('fox', { status: 'terminating' });
    expect(labels(leaving, false, trans)).toEqual(['Logs of fox']);
  });

  it('is only to look where nothing may be changed', () => {
    const service = aRun('chat', { type: 'service' });
    const commands = actionsOf(service, true, trans).map(
      ({ command }) => command
    );
    expect(commands).toEqual([CommandIDs.openLogs, CommandIDs.openService]);
    expect(labels(aDone('fox'), true, trans)).toEqual(['Logs of fox']);
  });
});
