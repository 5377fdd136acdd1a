import { describe, expect, it } from 'vitest';

import * as format from '../format';
import { aDone, aMachine, aRun, aService, AT_NOON, NOON } from './rows';

const trans: format.ITranslate = {
  __: (text, ...values) =>
    text.replace(/%(\d)/g, (_, number) => String(values[number - 1])),
  _n: (one, many, count, ...values) =>
    trans.__(count === 1 ? one : many, count, ...values)
};

describe('quantities', () => {
  it.each([
    [0, '0s'],
    [59.9, '59s'],
    [60, '1m'],
    [192, '3m 12s'],
    [3600, '1h'],
    [7800, '2h 10m'],
    [187_200, '2d 4h'],
    [-5, '0s'],
    [NaN, '0s']
  ])('%d seconds are %s', (seconds, text) => {
    expect(format.durationText(seconds)).toBe(text);
  });

  it.each([
    [0, '$0'],
    [3.1, '$3.10'],
    [1234567.891, '$1,234,567.89'],
    [0.01, '$0.01'],
    [0.00456, '$0.0046'],
    [0.00001, '<$0.0001']
  ])('%d dollars are %s', (dollars, text) => {
    expect(format.moneyText(dollars)).toBe(text);
  });

  it('names sizes by their unit', () => {
    expect([0.5, 8, 1.5, 1536, 141].map(format.sizeText)).toEqual([
      '512MB',
      '8GB',
      '1.5GB',
      '1.5TB',
      '141GB'
    ]);
  });

  it('gives short times two or three digits', () => {
    expect([0.0008, 0.014, 2.34, 45.2].map(format.secondsText)).toEqual([
      '0.8 ms',
      '14 ms',
      '2.3 s',
      '45 s'
    ]);
  });

  it('sets thousands apart', () => {
    expect(format.countText(5000)).toBe('5,000');
    expect(format.hourlyText(0)).toBe('$0');
    expect(format.hourlyText(3.1)).toBe('$3.10/h');
  });
});

describe('runs', () => {
  it('go on until now, and end when they ended', () => {
    expect(format.elapsedText(aRun('fox'), AT_NOON + 61_000)).toBe('1m 1s');
    expect(format.elapsedText(aDone('fox'), AT_NOON + 1e9)).toBe('3m 12s');
  });

  it('cost more as time passes, while they are active', () => {
    const run = aRun('fox', { price: 3.6, cost: 1 });
    expect(format.costAt(run, AT_NOON + 1_000_000)).toBeCloseTo(2);
    expect(format.costAt({ ...run, finished: true }, AT_NOON + 1e6)).toBe(1);
    expect(format.costAt(run, AT_NOON - 1000)).toBe(1);
  });

  it('are summed up in a few words', () => {
    const runs = [
      aRun('fox', { price: 3.1 }),
      aRun('owl'),
      aRun('bee', { status: 'submitted' }),
      aDone('cat', { price: 7 })
    ];
    expect(format.totalsText(runs, trans)).toBe(
      '2 running · 1 on the way · $3.10/h'
    );
    expect(format.totalsText([], trans)).toBe('0 running');
  });

  it('have a note only where there is something to say', () => {
    expect(format.noteOf(aRun('fox', { waiting: 'waits for a GPU' }))).toBe(
      'waits for a GPU'
    );
    expect(format.noteOf(aDone('fox'))).toBe('');
    const failed = aDone('fox', {
      status: 'failed',
      reason: 'ended with an error',
      detail: 'exit code 3'
    });
    expect(format.noteOf(failed)).toBe('ended with an error (exit code 3)');
    expect(format.shortNoteOf(failed)).toBe('exit code 3');
    expect(format.shortNoteOf(aDone('fox'))).toBe('');
  });

  it('are told by sign and word', () => {
    const run = aRun('fox', { status: 'terminating' });
    expect(format.signOf(run)).toBe('◌');
    expect(format.statusWord(run, trans)).toBe('stopping');
  });

  it('ended at a time of today, or on a day before', () => {
    expect(format.whenText(NOON, AT_NOON + 5000)).toMatch(/\d\d:\d\d/);
    expect(format.whenText(NOON, AT_NOON + 1e9)).toContain('21');
  });
});

describe('machines and services', () => {
  it('tell what they have', () => {
    const machine = aMachine('m', {
      gpus: ['H200:141GB', 'H200:141GB'],
      disk_gb: 100
    });
    expect(format.machineText(machine, trans)).toBe(
      '2xCPU, 8GB, 2xH200:141GB, 100GB (disk)'
    );
  });

  it('name a place once', () => {
    const place = { backend: 'local', region: 'local', instance_type: '' };
    expect(format.placeText(place)).toBe('local');
    expect(format.placeText({ ...place, region: 'eu' })).toBe('local eu');
  });

  it('tell how they answer', () => {
    const service = aService('chat', { rps: 3.21, in_flight: 4, p50: 0.12 });
    expect(format.trafficText(service, trans)).toBe(
      '2/2 ready · 3.2 requests/s · 4 in flight · p50 120 ms'
    );
  });
});
