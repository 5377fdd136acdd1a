import { describe, expect, it } from 'vitest';

import { fleetsOf } from '../sidebar/fleets';
import { aMachine } from './rows';

describe('machines', () => {
  it('are grouped by their fleets, in order, and those of none come first', () => {
    const machines = [
      aMachine('lab-10', { fleet: 'lab', number: 10 }),
      aMachine('den-0', { fleet: 'den' }),
      aMachine('lab-2', { fleet: 'lab', number: 2 }),
      aMachine('local')
    ];
    const groups = [...fleetsOf(machines)].map(([fleet, rows]) => [
      fleet,
      rows.map(row => row.name)
    ]);
    expect(groups).toEqual([
      ['', ['local']],
      ['den', ['den-0']],
      ['lab', ['lab-2', 'lab-10']]
    ]);
    expect(fleetsOf([]).size).toBe(0);
  });
});
