/** The logs of one run in the main area: reading, searching, following, keeping. */
import { Clipboard } from '@jupyterlab/apputils';
import { ServerConnection } from '@jupyterlab/services';
import { TranslationBundle } from '@jupyterlab/translation';
import { Message } from '@lumino/messaging';
import { ISignal, Signal } from '@lumino/signaling';
import { PanelLayout, Widget } from '@lumino/widgets';

import { dstackIcon } from '../icons';
import { ILogPiece, IRunRow } from '../records';
import { stream, troubleOf } from '../server';
import { IModel } from '../tokens';
import { LogBar } from './bar';
import { save, textOf } from './download';
import { LogReader, rest } from './reader';
import { LogScreen } from './screen';
import { LogSearch } from './search';
import { LogViewport } from './viewport';

/** So long the page is searched at a stretch, in milliseconds. */
const STRETCH = 8;
/** What is said above the lines is said anew so often, in milliseconds. */
const PACE = 150;

/** A tab with what a run prints. */
export class LogPanel extends Widget {
  constructor(private readonly options: LogPanel.IOptions) {
    super();
    const { name, trans, model } = options;
    this.id = LogPanel.idOf(name);
    this.addClass('jp-dstack-LogPanel');
    this.title.label = trans.__('%1 logs', name);
    this.title.caption = trans.__('The output of the run %1', name);
    this.title.icon = dstackIcon;
    this.title.closable = true;
    this.reader = new LogReader({
      open: (place, signal) => this._open(place, signal),
      take: piece => this._take(piece),
      another: job => this.screen.mark(this._another(job)),
      skipped: bytes => this._skipped(bytes),
      isOver: () => this.run?.finished ?? model.isReady,
      troubleOf,
      rest
    });
    this.viewport = new LogViewport(
      this.screen,
      trans.__('Output of %1', name)
    );
    this._submitted = this.run?.submitted_at;
    this.reader.changed.connect(this._say, this);
    // At once, for a box that is ticked must be so.
    this.viewport.followed.connect(() => this._changed.emit());
    model.changed.connect(this._onModel, this);
    const layout = (this.layout = new PanelLayout());
    layout.addWidget(new LogBar(this, trans));
    layout.addWidget(this.viewport);
  }

  readonly screen = new LogScreen();
  readonly reader: LogReader;
  readonly viewport: LogViewport;

  /** Emitted after anything that the bar shows has changed, a few times a second at most. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Emitted after another replica was chosen. */
  get chosen(): ISignal<this, void> {
    return this._chosen;
  }

  /** The run's name. */
  get name(): string {
    return this.options.name;
  }

  /** The run as it stands; undefined while nothing is known of it. */
  get run(): IRunRow | undefined {
    return this.options.model.run(this.name);
  }

  /** The numbers of the replicas that can be chosen; empty for what is no service. */
  get replicas(): number[] {
    const { services } = this.options.model;
    const jobs = services.find(row => row.name === this.name)?.replicas ?? [];
    const numbers = jobs.map(each => LogPanel.replicaOf(each.job));
    const known =
      this._replica === null ? numbers : [this._replica, ...numbers];
    return Array.from(new Set(known)).sort((one, other) => one - other);
  }

  /** The replica that is shown; null for the first that runs. */
  get replica(): number | null {
    return this._replica;
  }
  set replica(number: number | null) {
    if (number !== this._replica) {
      this._replica = number;
      this._chosen.emit();
      this.clear();
    }
  }

  /** What is looked for. */
  get query(): string {
    return this.viewport.search?.query ?? '';
  }
  set query(query: string) {
    this._find(query);
  }

  /** Whether the search has reached the end. */
  get isSearched(): boolean {
    return this._isSearched;
  }

  /** Go to the next place of the search, or the previous one with *step* -1, once it is known. */
  go(step: 1 | -1): void {
    const { search } = this.viewport;
    this._step = search && !this._isSearched ? step : null;
    const match = this._step ? undefined : search?.go(step, this.viewport.top);
    if (match) {
      this.viewport.reveal(match);
      this._say();
    }
  }

  /** Put what is selected, or else everything, on the clipboard; return the number of lines. */
  copy(): number {
    const text = this.viewport.selection.text || this.screen.text();
    Clipboard.copyToSystem(text);
    return text ? text.split('\n').length : 0;
  }

  /** Save all output as a file, also what is not shown any more. */
  async download(): Promise<void> {
    const part = this._replica === null ? '' : `-replica-${this._replica}`;
    const name = `${this.name}${part}.log`;
    if (!this.screen.dropped && !this._isTail) {
      const text = this.screen.text();
      save(text ? [`${text}\n`] : [], name);
      return;
    }
    const whole = stream<ILogPiece>(
      this.options.serverSettings,
      this._path({ offset: 0 }, false)
    );
    save(await textOf(whole, job => this._another(job)), name);
  }

  /** Begin anew. */
  clear(): void {
    this.screen.clear();
    this._isTail = false;
    this.viewport.reset();
    this._find(this.query);
    this.reader.restart();
    if (!this._isSeen) {
      this.reader.pause();
    }
  }

  /** Let go of everything. */
  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    document.removeEventListener('visibilitychange', this);
    clearTimeout(this._timer);
    this.reader.dispose();
    super.dispose();
    Signal.clearData(this);
  }

  /** Handle the events of the panel. */
  handleEvent(event: Event): void {
    if (event.type === 'visibilitychange') {
      this._look();
    } else if (event.type === 'keydown') {
      this._onKey(event as KeyboardEvent);
    }
  }

  protected onAfterAttach(_: Message): void {
    this.node.addEventListener('keydown', this);
    document.addEventListener('visibilitychange', this);
    this._look();
  }

  protected onBeforeDetach(_: Message): void {
    this.node.removeEventListener('keydown', this);
    document.removeEventListener('visibilitychange', this);
    this.reader.pause();
  }

  protected onAfterShow(_: Message): void {
    this._look();
  }

  protected onAfterHide(_: Message): void {
    this._look();
  }

  protected onActivateRequest(_: Message): void {
    this.viewport.node.focus();
  }

  protected onCloseRequest(msg: Message): void {
    super.onCloseRequest(msg);
    this.dispose();
  }

  private get _isSeen(): boolean {
    return this.isVisible && document.visibilityState === 'visible';
  }

  /** Read while the panel is seen. */
  private _look(): void {
    if (this._isSeen) {
      this.reader.resume();
      this.viewport.refresh();
    } else {
      this.reader.pause();
    }
  }

  private _path(place: LogReader.Place, follow: boolean): string {
    const query = new URLSearchParams({ follow: String(follow) });
    Object.entries(place).forEach(([key, value]) =>
      query.set(key, String(value))
    );
    if (this._replica !== null) {
      query.set('replica', String(this._replica));
    }
    return `runs/${encodeURIComponent(this.name)}/logs?${query.toString()}`;
  }

  private _open(
    place: LogReader.Place,
    signal: AbortSignal
  ): AsyncIterable<ILogPiece> {
    const { serverSettings } = this.options;
    return stream<ILogPiece>(serverSettings, this._path(place, true), {
      signal
    });
  }

  private _take(piece: ILogPiece): void {
    if (piece.stream === 'cut') {
      this.screen.mark(piece.text);
    } else {
      this.screen.write(piece.text);
    }
    this.viewport.refresh();
    this._searchOn();
    this._say();
  }

  private _skipped(bytes: number): void {
    const { trans } = this.options;
    const size = `${Math.round(bytes / 1_000_000) || '<1'} MB`;
    this._isTail = true;
    this.screen.mark(
      trans.__('… %1 of earlier output are in the download only', size)
    );
  }

  private _another(job: string | undefined): string {
    const { trans } = this.options;
    return job
      ? trans.__('— what follows is of another attempt: %1 —', job)
      : trans.__('— what follows is of another attempt —');
  }

  private _find(query: string): void {
    this.viewport.search = query ? new LogSearch(this.screen, query) : null;
    this._isSearched = false;
    this._step = null;
    this._searchOn();
    this.viewport.refresh();
    this._say();
  }

  /** Search a little further, and again later if that was not all. */
  private _searchOn(): void {
    if (this._isSearching || !this.viewport.search) {
      return;
    }
    this._isSearching = true;
    setTimeout(() => {
      this._isSearching = false;
      const { search } = this.viewport;
      if (!search || this.isDisposed) {
        return;
      }
      const begun = performance.now();
      this._isSearched = search.scan(() => performance.now() - begun > STRETCH);
      this.viewport.refresh();
      this._say();
      if (!this._isSearched) {
        this._searchOn();
      } else if (this._step) {
        this.go(this._step);
      }
    });
  }

  private _say(): void {
    this._timer ||= window.setTimeout(() => {
      this._timer = 0;
      this._changed.emit();
    }, PACE);
  }

  private _onModel(): void {
    const { model } = this.options;
    const { run } = this;
    if (run && this._submitted && run.submitted_at !== this._submitted) {
      this._submitted = run.submitted_at;
      this.clear();
    }
    this._submitted = run?.submitted_at ?? this._submitted;
    if (this.reader.state === 'broken' && model.trouble.kind === 'none') {
      this.reader.retry();
    }
    this._say();
  }

  private _onKey(event: KeyboardEvent): void {
    const isAccel = (event.ctrlKey || event.metaKey) && !event.altKey;
    if (isAccel && !event.shiftKey && event.key.toLowerCase() === 'f') {
      const box = this.node.querySelector<HTMLInputElement>(
        '.jp-dstack-LogBar-search'
      );
      box?.focus();
      box?.select();
      event.preventDefault();
      event.stopPropagation();
    }
  }

  private _replica: number | null = null;
  private _submitted: string | undefined;
  private _isTail = false;
  private _isSearching = false;
  private _isSearched = false;
  /** Where to go once everything is searched. */
  private _step: 1 | -1 | null = null;
  private _timer = 0;
  private _changed = new Signal<this, void>(this);
  private _chosen = new Signal<this, void>(this);
}

export namespace LogPanel {
  export interface IOptions {
    name: string;
    model: IModel;
    serverSettings: ServerConnection.ISettings;
    trans: TranslationBundle;
  }

  /** Return the panel's id for a run's name. */
  export function idOf(name: string): string {
    return `dstack-logs-${name}`;
  }

  /** Return a replica's number from its job's id: 1 of "web-0-1/3". */
  export function replicaOf(job: string): number {
    return Number(/-(\d+)(?:\/\d+)?$/.exec(job)?.[1] ?? 0);
  }
}
