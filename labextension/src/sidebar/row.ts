/** The face of one run, and of a group's heading, in the list of runs. Called by the list. */
import {
  ellipsesIcon,
  LabIcon,
  launchIcon,
  linkIcon,
  redoIcon,
  stopIcon,
  textEditorIcon
} from '@jupyterlab/ui-components';
import { TranslationBundle } from '@jupyterlab/translation';

import { element, picture, write } from '../elements';
import {
  costAt,
  countText,
  elapsedText,
  hourlyText,
  moneyText,
  noteOf,
  shortNoteOf,
  signOf,
  statusWord,
  whenText
} from '../format';
import { IRunRow } from '../records';
import { CommandIDs } from '../tokens';
import { actionsOf, IAction } from './actions';
import { IGroup, IListed } from './listing';

/** What a row is drawn with. */
export interface IDrawing {
  trans: TranslationBundle;
  readOnly: boolean;
  /** The server's time, in milliseconds. */
  now: number;
}

const ICONS: Record<string, LabIcon> = {
  [CommandIDs.openLogs]: textEditorIcon,
  [CommandIDs.openPort]: linkIcon,
  [CommandIDs.openService]: launchIcon,
  [CommandIDs.stop]: stopIcon,
  [CommandIDs.rerun]: redoIcon
};

/** One run: its name, how it stands, what it costs, and buttons. */
export class RunRow {
  constructor() {
    this.node = element(
      'div',
      'jp-dstack-RunRow',
      { role: 'treeitem', 'aria-level': '2', tabindex: '-1' },
      this._sign,
      element(
        'div',
        'jp-dstack-RunRow-text',
        {},
        element('div', 'jp-dstack-RunRow-first', {}, this._name, this._type),
        element(
          'div',
          'jp-dstack-RunRow-second',
          {},
          this._status,
          this._elapsed,
          this._cost,
          this._price,
          this._when,
          this._note
        )
      ),
      this._actions
    );
  }

  /** The element of the row. */
  readonly node: HTMLElement;

  /** Show a run; what is the same already is left alone. */
  show(item: IListed, drawing: IDrawing): void {
    const { run } = item;
    const { trans } = drawing;
    this._run = run;
    const word = statusWord(run, trans);
    this._set('aria-posinset', String(item.place));
    this._set('aria-setsize', String(item.of));
    this._set('aria-label', `${run.name}, ${run.type}, ${word}`);
    this._set('data-name', run.name);
    this._set('data-status', run.status);
    this._set('title', tooltipOf(run, trans));
    write(this._sign, signOf(run));
    write(this._name, run.name);
    write(this._type, run.type === 'task' ? '' : run.type);
    write(this._status, word);
    write(this._price, run.price ? hourlyText(run.price) : '');
    write(this._note, shortNoteOf(run));
    this._showActions(drawing);
    this.tick(drawing);
  }

  /** Write what changes with time alone. */
  tick({ now }: IDrawing): void {
    const run = this._run;
    if (run) {
      write(this._elapsed, elapsedText(run, now));
      const cost = costAt(run, now);
      write(this._cost, cost ? moneyText(cost) : '');
      write(this._when, run.finished_at ? whenText(run.finished_at, now) : '');
    }
  }

  /** Whether time alone changes the row. */
  get isActive(): boolean {
    return this._run !== null && !this._run.finished;
  }

  /** Make this the row that Tab reaches, with its buttons, or take that away. */
  setTabbable(yes: boolean): void {
    const index = yes ? '0' : '-1';
    this._set('tabindex', index);
    this._set('aria-selected', String(yes));
    for (const button of Array.from(this._actions.children)) {
      button.setAttribute('tabindex', index);
    }
  }

  private _showActions({ readOnly, trans }: IDrawing): void {
    const run = this._run!;
    const ports = run.ports.map(port => port.port).join();
    const key = [run.name, run.type, run.status, ports, readOnly].join(' ');
    if (key === this._actionsKey) {
      return;
    }
    this._actionsKey = key;
    const actions = actionsOf(run, readOnly, trans);
    const kinds = actions.map(action => action.command).join(' ');
    if (kinds !== this._kinds) {
      this._kinds = kinds;
      this._makeButtons(actions);
    }
    const buttons = this._actions.children;
    actions.forEach(({ command, args, label }, index) => {
      const button = buttons[index] as HTMLElement;
      name(button, label);
      button.dataset.command = command;
      button.dataset.args = JSON.stringify(args);
    });
    const more = trans.__('More actions for %1', run.name);
    name(buttons[actions.length], more);
  }

  private _makeButtons(actions: IAction[]): void {
    const focused = this._actions.contains(document.activeElement);
    const index = this.node.getAttribute('tabindex') ?? '-1';
    const more = makeButton(ellipsesIcon, index);
    more.dataset.more = '';
    more.setAttribute('aria-haspopup', 'menu');
    this._actions.replaceChildren(
      ...actions.map(({ command }) => makeButton(ICONS[command], index)),
      more
    );
    if (focused) {
      this.node.focus({ preventScroll: true });
    }
  }

  private _set(name: string, value: string): void {
    if (this.node.getAttribute(name) !== value) {
      this.node.setAttribute(name, value);
    }
  }

  private _run: IRunRow | null = null;
  private _actionsKey = '';
  /** The commands that have buttons now. */
  private _kinds: string | null = null;
  private _sign = element('span', 'jp-dstack-Sign', { 'aria-hidden': 'true' });
  private _name = element('span', 'jp-dstack-RunRow-name');
  private _type = element('span', 'jp-dstack-RunRow-type');
  private _status = element('span', 'jp-dstack-RunRow-status');
  private _elapsed = element('span', 'jp-dstack-RunRow-fact');
  private _cost = element('span', 'jp-dstack-RunRow-fact');
  private _price = element('span', 'jp-dstack-RunRow-fact');
  private _when = element('span', 'jp-dstack-RunRow-fact');
  private _note = element('span', 'jp-dstack-RunRow-note');
  private _actions = element('div', 'jp-dstack-Actions');
}

/** The heading of a group, which opens and closes it. */
export class GroupRow {
  constructor() {
    this.node = element(
      'div',
      'jp-dstack-GroupRow',
      { role: 'treeitem', 'aria-level': '1', tabindex: '-1' },
      element('span', 'jp-dstack-Caret', { 'aria-hidden': 'true' }, '▾'),
      this._label,
      this._count
    );
  }

  /** The element of the heading. */
  readonly node: HTMLElement;

  /** Show a group with how many runs it has. */
  show(item: IGroup, { trans }: IDrawing): void {
    const label =
      item.group === 'active' ? trans.__('Active') : trans.__('Finished');
    write(this._label, label);
    write(this._count, countText(item.count));
    this.node.dataset.group = item.group;
    this.node.setAttribute('aria-label', `${label}, ${item.count}`);
    this.node.setAttribute('aria-expanded', String(item.isOpen));
  }

  /** Make this the row that Tab reaches, or take that away. */
  setTabbable(yes: boolean): void {
    this.node.setAttribute('tabindex', yes ? '0' : '-1');
    this.node.setAttribute('aria-selected', String(yes));
  }

  private _label = element('span', 'jp-dstack-GroupRow-label');
  private _count = element('span', 'jp-dstack-GroupRow-count');
}

function tooltipOf(run: IRunRow, trans: TranslationBundle): string {
  const lines = [run.name];
  const note = noteOf(run);
  if (note || run.reason) {
    lines.push(note || run.reason!);
  }
  if (run.resources) {
    lines.push([run.backend, run.resources].filter(Boolean).join(' · '));
  }
  if (run.project) {
    lines.push(trans.__('from %1', run.project));
  }
  return lines.join('\n');
}

function makeButton(icon: LabIcon, index: string): HTMLButtonElement {
  return element(
    'button',
    'jp-dstack-Action',
    { type: 'button', tabindex: index },
    picture(icon)
  );
}

function name(button: Element, label: string): void {
  button.setAttribute('aria-label', label);
  button.setAttribute('title', label);
}
