import { ServerConnection } from '@jupyterlab/services';
import { Signal } from '@lumino/signaling';
import { afterEach, describe, expect, it } from 'vitest';

import { Model } from '../model';
import { CHANGES, IRunRow, IState } from '../records';
import { aDone, aMachine, aRun, aService, aState } from './rows';

type Reply = () => Promise<Response> | Response;

const models: Model[] = [];

afterEach(() => models.splice(0).forEach(model => model.dispose()));

function json(body: unknown, status = 200): Response {
  return new Response(JSON.stringify(body), { status });
}

/** A model whose frames are counted and drawn by hand, and whose server says what *replies* say. */
function ground(...replies: Reply[]) {
  const events = new Signal<any, any>({});
  const frames: (() => void)[] = [];
  const last = replies[replies.length - 1];
  const serverSettings = ServerConnection.makeSettings({
    baseUrl: 'http://localhost:1/base/',
    fetch: async () => (replies.shift() ?? last)()
  });
  const defer = (work: () => void) => void frames.push(work);
  const model = new Model({ serverSettings, events, defer });
  models.push(model);
  const seen = { changes: 0, ended: [] as IRunRow[] };
  model.changed.connect(() => seen.changes++);
  model.ended.connect((_, run) => seen.ended.push(run));
  const push = (change: object) =>
    events.emit({ schema_id: CHANGES, ...change });
  const draw = () => frames.splice(0).forEach(work => work());
  return { model, push, draw, seen };
}

const says =
  (state: Partial<IState>): Reply =>
  () =>
    json(aState(state));

describe('the model', () => {
  it('has what the first answer says, the newest run first', async () => {
    const old = aRun('old', { submitted_at: '2026-11-20T12:00:00+00:00' });
    const { model } = ground(says({ runs: [old, aRun('new')] }));
    await model.refresh();
    expect(model.isReady).toBe(true);
    expect(model.trouble).toEqual({ kind: 'none' });
    expect(model.runs.map(run => run.name)).toEqual(['new', 'old']);
    expect(model.run('old')).toEqual(old);
  });

  it('takes pushes, and tells of them once a frame', async () => {
    const { model, push, draw, seen } = ground(says({ runs: [aRun('fox')] }));
    await model.refresh();
    draw();
    const before = seen.changes;
    push({ runs: [aRun('fox', { cost: 1 })] });
    push({ runs: [aRun('owl')], machines: [aMachine('m')] });
    push({ services: [aService('chat')] });
    expect(seen.changes).toBe(before);
    draw();
    expect(seen.changes).toBe(before + 1);
    expect(model.run('fox')?.cost).toBe(1);
    expect(model.runs).toHaveLength(2);
    expect(model.services).toHaveLength(1);
    push({ models: [{ name: 'echo', runs: ['chat'], ready_replicas: 1 }] });
    expect(model.models).toHaveLength(1);
    push({ models: [{ name: 'echo', runs: [], ready_replicas: 0 }] });
    expect(model.models).toHaveLength(0);
    push({
      deleted: ['fox'],
      machines: [aMachine('m', { status: 'terminated' })]
    });
    expect(model.run('fox')).toBeUndefined();
    expect(model.machines).toHaveLength(0);
  });

  it('leaves other events alone', async () => {
    const { model, push, draw, seen } = ground(says({}));
    await model.refresh();
    draw();
    const before = seen.changes;
    push({ schema_id: 'https://other/v1', runs: [aRun('fox')] });
    draw();
    expect(seen.changes).toBe(before);
    expect(model.runs).toEqual([]);
  });

  it('says nothing when an answer says nothing new', async () => {
    const { model, draw, seen } = ground(says({ runs: [aRun('fox')] }));
    await model.refresh();
    draw();
    const { changes } = seen;
    const rows = model.runs;
    await model.refresh();
    draw();
    expect(seen.changes).toBe(changes);
    expect(model.runs).toBe(rows);
  });

  it('tells of a run that ended only when it was seen active', async () => {
    const { model, push, seen } = ground(
      says({ runs: [aDone('past'), aRun('fox'), aRun('owl')] }),
      says({ engine: 'down' }),
      says({ runs: [aDone('past'), aDone('fox'), aDone('owl')] })
    );
    await model.refresh();
    push({ runs: [aDone('fox')] });
    push({ runs: [aDone('fox')] });
    expect(seen.ended.map(run => run.name)).toEqual(['fox']);
    await model.refresh();
    expect(model.trouble).toEqual({ kind: 'engine-down' });
    await model.refresh();
    expect(seen.ended.map(run => run.name)).toEqual(['fox', 'owl']);
  });

  it('does not let an answer undo what was pushed meanwhile', async () => {
    let answer: (response: Response) => void = () => undefined;
    const slow = () =>
      new Promise<Response>(resolve => {
        answer = resolve;
      });
    const { model, push } = ground(says({ runs: [aRun('fox')] }), slow);
    await model.refresh();
    const asked = model.refresh();
    await new Promise(resolve => setTimeout(resolve, 50));
    push({ runs: [aDone('fox')] });
    answer(json(aState({ runs: [aRun('fox')] })));
    await asked;
    expect(model.run('fox')?.finished).toBe(true);
  });

  it.each([
    [() => json({ message: 'no', hint: null, code: '' }, 404), 'not-installed'],
    [() => new Response('<html>', { status: 403 }), 'not-authorised'],
    [
      () => json({ message: 'no', hint: null, code: 'engine-down' }, 503),
      'engine-down'
    ],
    [() => new Response('Bad gateway', { status: 502 }), 'network'],
    [() => Promise.reject(new TypeError('Failed to fetch')), 'network'],
    [
      () => json({ message: 'Full', hint: 'Wait', code: 'store' }, 500),
      'failed'
    ]
  ] as [Reply, string][])('tells troubles apart (%#)', async (reply, kind) => {
    const { model } = ground(reply);
    await model.refresh();
    expect(model.isReady).toBe(true);
    expect(model.trouble.kind).toBe(kind);
  });

  it('merges a change among 5,000 runs without looking at the others', async () => {
    const runs = Array.from({ length: 5000 }, (_, index) =>
      aDone(`run-${index}`)
    );
    const { model, push } = ground(says({ runs }));
    await model.refresh();
    const before = model.runs;
    push({ runs: [aDone('run-7', { cost: 2 })] });
    const after = model.runs;
    const changed = after.filter((run, index) => run !== before[index]);
    expect(changed.map(run => run.name)).toEqual(['run-7']);
  });
});
