/**
 * All that runs, kept up to date: asked once, then told by the server as things change.
 *
 * A slow look besides finds what a lost push would have told; it rests while nobody looks.
 */
import { Event, ServerConnection } from '@jupyterlab/services';
import { IDisposable } from '@lumino/disposable';
import { Poll } from '@lumino/polling';
import { ISignal, Signal } from '@lumino/signaling';

import { byAge, isNewer, Rows } from './merging';
import {
  CHANGES,
  IChange,
  IMachineRow,
  IModelRow,
  IRunRow,
  IServiceRow,
  IState
} from './records';
import { timed, troubleOf } from './server';
import { IModel, Trouble } from './tokens';

/** Milliseconds until the first look after one that did not reach the server. */
const RETRY = 2_000;
/** Milliseconds between looks at a server that is not reached, at most. */
const SLOWEST = 300_000;

/** The one model of a page. */
export class Model implements IModel, IDisposable {
  constructor(options: Model.IOptions) {
    this._settings = options.serverSettings;
    this._defer =
      options.defer ?? (work => void requestAnimationFrame(() => work()));
    this._interval = 1000 * (options.refreshInterval ?? 60);
    const isConnected = options.isConnected ?? (() => true);
    this._poll = new Poll({
      auto: false,
      name: 'dstack-jupyter:state',
      factory: () => this._look(),
      frequency: this._rested(),
      standby: () => !isConnected() || 'when-hidden'
    });
    options.events?.connect(this._onEvent, this);
    this._events = options.events ?? null;
    void this._poll.start();
  }

  get isReady(): boolean {
    return this._isReady;
  }

  get trouble(): Trouble {
    return this._trouble;
  }

  get runs(): readonly IRunRow[] {
    return this._runs.list;
  }

  get services(): readonly IServiceRow[] {
    return this._services.list;
  }

  get models(): readonly IModelRow[] {
    return this._models.list;
  }

  get machines(): readonly IMachineRow[] {
    return this._machines.list;
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get ended(): ISignal<this, IRunRow> {
    return this._ended;
  }

  get isDisposed(): boolean {
    return this._poll.isDisposed;
  }

  run(name: string): IRunRow | undefined {
    return this._runs.get(name);
  }

  now(): number {
    return Date.now() + this._skew;
  }

  /** Ask anew now; resolves once the answer is taken. */
  async refresh(): Promise<void> {
    if (this.isDisposed) {
      return;
    }
    await this._poll.refresh();
    await this._poll.tick.catch(() => undefined);
  }

  /** Somebody else could not reach the server: say so, and try soon and again. */
  lose(): void {
    if (!this.isDisposed && this._trouble.kind !== 'network') {
      this._fail({ kind: 'network' });
      void this._poll.refresh();
    }
  }

  /** Look every so many *seconds*. */
  setInterval(seconds: number): void {
    this._interval = seconds * 1000;
    if (this._trouble.kind !== 'network') {
      this._poll.frequency = this._rested();
    }
  }

  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this._events?.disconnect(this._onEvent, this);
    this._poll.dispose();
    Signal.clearData(this);
  }

  /** Take what the server pushed. */
  take(change: IChange): void {
    this._late.forEach(changes => changes.push(change));
    this._merge(change, false);
    if (this._trouble.kind === 'network') {
      this._setTrouble({ kind: 'none' });
    }
    if (change.reload || change.engine) {
      void this.refresh();
    }
  }

  private async _look(): Promise<void> {
    const turn = ++this._asked;
    const late: IChange[] = [];
    this._late.add(late);
    try {
      const answer = await timed<IState>(this._settings, 'state');
      this._late.delete(late);
      if (turn > this._answered && !this.isDisposed) {
        this._answered = turn;
        this._synchronize(answer.at);
        this._replace(answer.value);
        // What came while the answer was on its way may be newer than the answer, or older.
        late.forEach(change => this._merge(change, true));
        const down = answer.value.engine === 'down';
        this._setTrouble({ kind: down ? 'engine-down' : 'none' });
        this._poll.frequency = this._rested();
      }
    } catch (error) {
      this._late.delete(late);
      if (turn > this._answered) {
        this._fail(troubleOf(error));
      }
      throw error;
    } finally {
      this._becomeReady();
    }
  }

  private _fail(trouble: Trouble): void {
    this._setTrouble(trouble);
    if (trouble.kind === 'network') {
      this._poll.frequency = { interval: RETRY, backoff: 2, max: SLOWEST };
    }
  }

  private _replace(state: IState): void {
    if (state.engine === 'running') {
      const kept = new Set(state.runs.map(keyOf));
      this._active.forEach(key => kept.has(key) || this._active.delete(key));
    }
    state.runs.forEach(run => this._follow(run));
    const changes = [
      this._runs.replace(state.runs),
      this._services.replace(state.services),
      this._models.replace(state.models),
      this._machines.replace(state.machines)
    ];
    if (changes.includes(true)) {
      this._emit();
    }
  }

  private _merge(change: IChange, onlyNewer: boolean): void {
    for (const run of change.runs ?? []) {
      if (!onlyNewer || isNewer(run, this._runs.get(run.name))) {
        this._runs.put(run);
        this._follow(run);
      }
    }
    change.deleted?.forEach(name => {
      this._runs.remove(name);
      this._services.remove(name);
    });
    change.services?.forEach(row => this._services.put(row));
    change.models?.forEach(row => this._models.put(row));
    change.machines?.forEach(row => this._machines.put(row));
    this._forgetEnded(change);
    this._emit();
  }

  /** Services, models and machines are listed while they live; a last row tells of their end. */
  private _forgetEnded(change: IChange): void {
    for (const run of change.runs ?? []) {
      if (run.finished) {
        this._services.remove(run.name);
      }
    }
    for (const served of change.models ?? []) {
      if (!served.runs.length) {
        this._models.remove(served.name);
      }
    }
    for (const machine of change.machines ?? []) {
      if (machine.status === 'terminated') {
        this._machines.remove(machine.name);
      }
    }
  }

  /** Remember what is active, and tell of its end. */
  private _follow(run: IRunRow): void {
    const key = keyOf(run);
    if (!run.finished) {
      this._active.add(key);
    } else if (this._active.delete(key)) {
      this._ended.emit(run);
    }
  }

  private _setTrouble(trouble: Trouble): void {
    if (JSON.stringify(trouble) !== JSON.stringify(this._trouble)) {
      this._trouble = trouble;
      this._emit();
    }
  }

  private _becomeReady(): void {
    if (!this._isReady) {
      this._isReady = true;
      this._emit();
    }
  }

  private _emit(): void {
    if (this._isDue || this.isDisposed) {
      return;
    }
    this._isDue = true;
    this._defer(() => {
      this._isDue = false;
      if (!this.isDisposed) {
        this._changed.emit();
      }
    });
  }

  /** Correct the page's clock by the server's, which says whole seconds. */
  private _synchronize(at: number | null): void {
    const skew = at === null ? 0 : at + 500 - Date.now();
    this._skew = Math.abs(skew) > 3_000 ? skew : 0;
  }

  private _rested() {
    return {
      interval: this._interval,
      backoff: 2,
      max: Math.max(SLOWEST, this._interval)
    };
  }

  private _onEvent(_: unknown, event: Event.Emission): void {
    if (event.schema_id === CHANGES) {
      this.take(event as unknown as IChange);
    }
  }

  private _settings: ServerConnection.ISettings;
  private _events: ISignal<unknown, Event.Emission> | null;
  private _defer: (work: () => void) => void;
  private _poll: Poll;
  private _interval: number;
  private _isReady = false;
  private _isDue = false;
  private _skew = 0;
  private _trouble: Trouble = { kind: 'none' };
  private _runs = new Rows<IRunRow>(byAge);
  private _services = new Rows<IServiceRow>();
  private _models = new Rows<IModelRow>();
  private _machines = new Rows<IMachineRow>();
  /** Runs that were seen active, also while the engine is down and lists nothing. */
  private _active = new Set<string>();
  /** What is pushed while answers are on their way, for each of them. */
  private _late = new Set<IChange[]>();
  /** Looks are counted, so that a late answer does not undo a newer one. */
  private _asked = 0;
  private _answered = 0;
  private _changed = new Signal<this, void>(this);
  private _ended = new Signal<this, IRunRow>(this);
}

/** What a `Model` is made of. */
export namespace Model {
  /** The options of a new model. */
  export interface IOptions {
    serverSettings: ServerConnection.ISettings;
    /** Jupyter's events, of which ours are taken; without them the looks are all. */
    events?: ISignal<unknown, Event.Emission> | null;
    /** Seconds between looks. */
    refreshInterval?: number;
    /** Whether the page has its server. */
    isConnected?: () => boolean;
    /** Do work in the next frame. */
    defer?: (work: () => void) => void;
  }
}

/** A name may be used again after a run is deleted. */
function keyOf(run: IRunRow): string {
  return `${run.name} ${run.submitted_at}`;
}
