import { describe, expect, it } from 'vitest';

import {
  ANYTHING,
  attachCell,
  fleetCell,
  fleetTaskCell,
  NO_HOST,
  taskCell
} from '../cells';
import { IOfferRow } from '../records';

const OFFER: IOfferRow = {
  id: 'o',
  backend: 'aws',
  region: 'eu-west-1',
  instance_type: 'p5.48xlarge',
  resources: '192xCPU',
  price: 60,
  spot: true,
  availability: 'available',
  notes: [],
  reasons: []
};

describe('cells', () => {
  it('ask for nothing that was not asked for', () => {
    expect(taskCell(ANYTHING)).toBe(
      '%%dstack task\ncommands:\n  - echo "Hello"\n'
    );
    expect(attachCell('fox')).toBe('%dstack attach fox');
  });

  it('ask for what is wanted, in quotes where YAML would misread it', () => {
    const wanted = {
      gpu: ' H100:80GB:2 ',
      cpu: '4..',
      memory: '16GB: x',
      maxPrice: '2.50'
    };
    expect(taskCell(wanted)).toBe(
      [
        '%%dstack task',
        'commands:',
        '  - nvidia-smi',
        'resources:',
        '  gpu: H100:80GB:2',
        '  cpu: 4..',
        '  memory: "16GB: x"',
        'max_price: 2.50',
        ''
      ].join('\n')
    );
  });

  it('ask for one offer by its place', () => {
    expect(taskCell(ANYTHING, OFFER)).toContain(
      'backends: [aws]\nregions: [eu-west-1]\ninstance_types: [p5.48xlarge]\nspot_policy: spot\n'
    );
    const local = { ...OFFER, backend: 'local', region: 'local', spot: false };
    expect(taskCell(ANYTHING, local)).not.toContain('regions');
  });
});

describe('cells of machines', () => {
  it('make a fleet of the hosts that are named', () => {
    const host = {
      hosts: '10.0.0.5, fe80::1%eth0',
      user: 'ubuntu',
      key: '~/.ssh/id_ed25519',
      fleet: 'lab'
    };
    expect(fleetCell(host, false)).toBe(
      [
        '%%dstack fleet',
        'name: lab',
        'ssh_config:',
        '  user: ubuntu',
        '  identity_file: "~/.ssh/id_ed25519"',
        '  hosts:',
        '    - 10.0.0.5',
        '    - "fe80::1%eth0"',
        ''
      ].join('\n')
    );
  });

  it('add to a fleet that is there, whose other machines stay', () => {
    const host = { ...NO_HOST, hosts: 'box', user: 'ann', fleet: 'lab' };
    expect(fleetCell(host, true)).toBe(
      '%dstack pool add-ssh ann@box --fleet lab\n'
    );
    expect(fleetCell({ ...host, key: 'my key' }, true)).toBe(
      "%dstack pool add-ssh ann@box -i 'my key' --fleet lab\n"
    );
  });

  it('run on one fleet alone', () => {
    expect(fleetTaskCell('lab')).toBe(
      '%%dstack task\ncommands:\n  - echo "Hello"\nfleets: [lab]\n'
    );
  });
});
