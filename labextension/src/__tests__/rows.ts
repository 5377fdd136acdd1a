/** Rows as the server tells them, for tests: whole, with what a test says of them. */
import { IMachineRow, IRunRow, IServiceRow, IState } from '../records';

export const NOON = '2026-11-21T12:00:00+00:00';
export const AT_NOON = Date.parse(NOON);

export function aRun(name: string, more: Partial<IRunRow> = {}): IRunRow {
  return {
    name,
    type: 'task',
    status: 'running',
    finished: false,
    reason: null,
    detail: null,
    waiting: null,
    submitted_at: NOON,
    started_at: NOON,
    finished_at: null,
    price: 0,
    cost: 0,
    as_of: NOON,
    exit_code: null,
    backend: 'local',
    resources: null,
    project: null,
    ports: [],
    ...more
  };
}

export function aDone(name: string, more: Partial<IRunRow> = {}): IRunRow {
  return aRun(name, {
    status: 'done',
    finished: true,
    finished_at: '2026-11-21T12:03:12+00:00',
    reason: 'ended by itself with exit code 0',
    ...more
  });
}

export function aService(
  name: string,
  more: Partial<IServiceRow> = {}
): IServiceRow {
  return {
    name,
    status: 'running',
    url: null,
    proxy: `dstack-jupyter/services/${name}/`,
    model: null,
    desired: 2,
    ready: 2,
    replicas: [],
    rps: 0,
    in_flight: 0,
    held: 0,
    p50: null,
    p95: null,
    ...more
  };
}

export function aMachine(
  name: string,
  more: Partial<IMachineRow> = {}
): IMachineRow {
  return {
    name,
    fleet: null,
    number: 0,
    host: null,
    word: 'in use',
    sign: '◆',
    note: null,
    blocks: 1,
    blocks_used: 0,
    checks: [],
    backend: 'local',
    region: 'local',
    instance_type: 'process',
    status: 'busy',
    cpus: 2,
    memory_gb: 8,
    disk_gb: null,
    gpus: [],
    price: 0,
    idle_until: null,
    runs: [],
    ...more
  };
}

export function aState(more: Partial<IState> = {}): IState {
  return {
    engine: 'running',
    runs: [],
    services: [],
    models: [],
    machines: [],
    models_url: null,
    ...more
  };
}
