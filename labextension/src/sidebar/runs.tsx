/** The section of runs: a filter, the list, and what to do while there are none. */
import { ReactWidget } from '@jupyterlab/ui-components';
import { Message } from '@lumino/messaging';
import { ISignal, Signal } from '@lumino/signaling';
import { Panel, Widget } from '@lumino/widgets';

import { FIRST_TASK } from '../cells';
import { element, write } from '../elements';
import { countText, statusWord } from '../format';
import { h } from '../jsx';
import { IRunRow } from '../records';
import { Lesson } from './lesson';
import { GroupName, listRuns } from './listing';
import { IParts } from './parts';
import { RunList } from './runlist';

/** Status changes that are read out one by one; more are only counted. */
const SPOKEN = 3;

/** All runs, whoever started them. */
export class RunsSection extends Panel {
  constructor(private readonly _parts: IParts) {
    super();
    const { trans, model, preferences, clock } = _parts;
    this.addClass('jp-dstack-Runs');
    this.id = 'dstack-jupyter-runs';
    this.title.label = trans.__('Runs');
    this._filter = element('input', 'jp-dstack-Input', {
      type: 'text',
      'aria-label': trans.__('Filter runs'),
      placeholder: trans.__('Filter by name, status or type'),
      spellcheck: 'false',
      autocomplete: 'off'
    });
    this._list = new RunList({
      commands: _parts.commands,
      trans,
      focus: _parts.focus,
      drawing: () => ({
        trans,
        readOnly: preferences.readOnly,
        now: model.now()
      }),
      toggle: group => this._toggle(group),
      menu: name => this._menuOpens.emit(name),
      leave: () => this._filter.focus()
    });
    this._empty = ReactWidget.create(
      <Lesson
        text={trans.__('No runs yet. A cell like this starts one:')}
        cell={FIRST_TASK}
        trans={trans}
        commands={_parts.commands}
      />
    );
    const head = element('div', 'jp-dstack-Filter', {}, this._filter);
    head.append(this._count);
    this.addWidget(new Widget({ node: head }));
    this.addWidget(this._empty);
    this.addWidget(this._list);
    this.node.append(this._said);
    this._filter.addEventListener('input', this);
    this._filter.addEventListener('keydown', this);
    model.changed.connect(this._onChanged, this);
    preferences.changed.connect(this._redraw, this);
    clock.ticked.connect(() => this._list.tick());
    this.restore();
  }

  /** Emitted with a run's name when its menu is about to open. */
  get menuOpens(): ISignal<this, string> {
    return this._menuOpens;
  }

  /** Show the filter and the groups as they are remembered. */
  restore(): void {
    const { memory } = this._parts;
    this._filter.value = memory.text('filter');
    this._closed = new Set(memory.list('closed') as GroupName[]);
    this._redraw();
  }

  /** Put the cursor into the filter. */
  focusFilter(): void {
    this._filter.focus();
    this._filter.select();
  }

  /** Put the focus back to the run whose menu has closed. */
  focusCurrent(): void {
    this._list.focusCurrent();
  }

  handleEvent(event: Event): void {
    if (event.type === 'input') {
      this._parts.memory.set('filter', this._filter.value);
      this._redraw();
    } else if (event instanceof KeyboardEvent) {
      if (event.key === 'ArrowDown') {
        event.preventDefault();
        this._list.focusFirst();
      } else if (event.key === 'Escape' && this._filter.value) {
        event.preventDefault();
        this._filter.value = '';
        this.handleEvent(new Event('input'));
      }
    }
  }

  dispose(): void {
    Signal.disconnectReceiver(this);
    super.dispose();
  }

  protected onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    this._redraw();
  }

  private _onChanged(): void {
    this._say();
    this._redraw();
  }

  private _redraw(): void {
    const { model, trans } = this._parts;
    const filter = this._filter.value;
    const listing = listRuns(model.runs, filter, this._closed);
    const isFiltered = filter.trim() !== '';
    write(
      this._count,
      isFiltered && listing.total
        ? trans.__(
            '%1 of %2',
            countText(listing.matching),
            countText(listing.total)
          )
        : ''
    );
    this._empty.setHidden(listing.total > 0 || !model.isReady);
    this._list.setHidden(listing.total === 0);
    this._list.setItems(listing.items);
  }

  private _toggle(group: GroupName): void {
    if (!this._closed.delete(group)) {
      this._closed.add(group);
    }
    this._parts.memory.set('closed', [...this._closed]);
    this._redraw();
  }

  /** Read out what has changed since the last time, for those who do not see it. */
  private _say(): void {
    const { model, trans } = this._parts;
    const changed: IRunRow[] = [];
    const { runs } = model;
    if (runs !== this._heard) {
      const before = this._statuses;
      this._statuses = new Map(runs.map(run => [run.name, run.status]));
      if (this._heard) {
        const isNews = (run: IRunRow) =>
          before.get(run.name) !== run.status &&
          (before.has(run.name) || !run.finished);
        changed.push(...runs.filter(isNews));
      }
      this._heard = model.isReady ? runs : null;
    }
    if (changed.length > SPOKEN) {
      write(
        this._said,
        trans.__('%1 runs have changed', countText(changed.length))
      );
    } else if (changed.length) {
      const words = changed.map(
        run => `${run.name}: ${statusWord(run, trans)}`
      );
      write(this._said, words.join(', '));
    }
  }

  private _filter: HTMLInputElement;
  private _count = element('span', 'jp-dstack-Filter-count', {
    role: 'status'
  });
  private _said = element('div', 'jp-dstack-Unseen', { role: 'status' });
  private _list: RunList;
  private _empty: ReactWidget;
  private _closed = new Set<GroupName>();
  private _statuses = new Map<string, string>();
  private _heard: readonly IRunRow[] | null = null;
  private _menuOpens = new Signal<this, string>(this);
}
