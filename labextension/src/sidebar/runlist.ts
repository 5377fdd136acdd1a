/**
 * The list of runs: only the rows that are seen are in the page, however many there are.
 *
 * Arrows move, Enter shows the log, Delete stops; Tab goes to the row's buttons.
 */
import { TranslationBundle } from '@jupyterlab/translation';
import { CommandRegistry } from '@lumino/commands';
import { Message } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';

import { element } from '../elements';
import { CommandIDs, IFocus } from '../tokens';
import { firstBelow, GroupName, Item } from './listing';
import { GroupRow, IDrawing, RunRow } from './row';

/** Heights in pixels, as in the style sheet. */
const RUN_HEIGHT = 44;
const GROUP_HEIGHT = 26;
/** Rows kept ready above and below what is seen. */
const SPARE = 6;

/** A list of runs in groups, as a tree. */
export class RunList extends Widget {
  constructor(private readonly _options: RunList.IOptions) {
    super({ node: element('div', 'jp-dstack-RunList') });
    const label = _options.trans.__('Runs');
    this._tree = element('div', 'jp-dstack-RunList-tree', {
      role: 'tree',
      'aria-label': label
    });
    this.node.append(this._tree);
  }

  /** Show *items*; the focused row stays where it is in them. */
  setItems(items: readonly Item[]): void {
    const hadFocus = this._tree.contains(document.activeElement);
    const before = this._places.get(this._current ?? '') ?? 0;
    this._items = items;
    let end = 0;
    this._ends = items.map(
      item => (end += item.kind === 'run' ? RUN_HEIGHT : GROUP_HEIGHT)
    );
    this._places = new Map(items.map((item, index) => [keyOf(item), index]));
    const isGone = this._current !== null && !this._places.has(this._current);
    if (isGone) {
      this._setCurrent(null);
    }
    this._tree.style.height = `${end}px`;
    this._tree.hidden = items.length === 0;
    this._paint(true);
    if (isGone && hadFocus) {
      this._focus(Math.min(before, items.length - 1));
    }
  }

  /** Write what changes with time alone, in the rows that are seen. */
  tick(): void {
    const drawing = this._options.drawing();
    this._rows.forEach(row => {
      if (row instanceof RunRow) {
        row.tick(drawing);
      }
    });
  }

  /** Focus the first run, or the row that had the focus before. */
  focusFirst(): void {
    const first = this._items.findIndex(item => item.kind === 'run');
    this._focus(this._places.get(this._current ?? '') ?? Math.max(first, 0));
  }

  /** Focus the current row again. */
  focusCurrent(): void {
    this._focus(this._places.get(this._current ?? '') ?? -1);
  }

  handleEvent(event: Event): void {
    switch (event.type) {
      case 'scroll':
        this._paint(false);
        break;
      case 'click':
        this._onClick(event as MouseEvent);
        break;
      case 'dblclick':
        this._onDoubleClick(event as MouseEvent);
        break;
      case 'keydown':
        this._onKey(event as KeyboardEvent);
        break;
      case 'focusin':
      case 'contextmenu':
        this._onFocus(event);
        break;
    }
  }

  protected onAfterAttach(_: Message): void {
    for (const type of EVENTS) {
      this.node.addEventListener(type, this);
    }
    this._paint(true);
  }

  protected onBeforeDetach(_: Message): void {
    for (const type of EVENTS) {
      this.node.removeEventListener(type, this);
    }
  }

  protected onAfterShow(_: Message): void {
    this._paint(true);
  }

  protected onResize(_: Widget.ResizeMessage): void {
    this._paint(false);
  }

  /** Put the rows that are seen into the page; with *anew* write those that were there too. */
  private _paint(anew: boolean): void {
    if (!this.isVisible) {
      return;
    }
    const { scrollTop, clientHeight } = this.node;
    const from = Math.max(firstBelow(this._ends, scrollTop) - SPARE, 0);
    const bottom = firstBelow(this._ends, scrollTop + clientHeight);
    const wanted = new Map<string, number>();
    const pinned = this._places.get(this._current ?? '');
    if (pinned !== undefined && pinned < from) {
      wanted.set(this._current!, pinned);
    }
    for (let at = from; at < this._items.length && at <= bottom + SPARE; at++) {
      wanted.set(keyOf(this._items[at]), at);
    }
    if (pinned !== undefined) {
      wanted.set(this._current!, pinned);
    }
    this._arrange(wanted, anew);
  }

  private _arrange(wanted: Map<string, number>, anew: boolean): void {
    const focused = document.activeElement;
    const spare: RunRow[] = [];
    this._rows.forEach((row, key) => {
      if (!wanted.has(key)) {
        this._rows.delete(key);
        if (row instanceof RunRow) {
          spare.push(row);
        } else {
          row.node.remove();
        }
      }
    });
    const drawing = this._options.drawing();
    let next = this._tree.firstElementChild;
    wanted.forEach((place, key) => {
      const row = this._rows.get(key);
      const node = this._draw(row ?? null, place, key, spare, drawing, anew);
      if (node === next) {
        next = node.nextElementSibling;
      } else {
        this._tree.insertBefore(node, next);
      }
    });
    spare.forEach(row => row.node.remove());
    if (
      focused instanceof HTMLElement &&
      focused !== document.activeElement &&
      this._tree.contains(focused)
    ) {
      focused.focus({ preventScroll: true });
    }
  }

  /** Return the row's element, drawn where it has to be. */
  private _draw(
    old: RunRow | GroupRow | null,
    place: number,
    key: string,
    spare: RunRow[],
    drawing: IDrawing,
    anew: boolean
  ): HTMLElement {
    const item = this._items[place];
    const top = place ? this._ends[place - 1] : 0;
    let row = old;
    if (!row) {
      row =
        item.kind === 'run' ? (spare.pop() ?? new RunRow()) : new GroupRow();
      this._rows.set(key, row);
      row.setTabbable(false);
    }
    if (!old || anew) {
      if (item.kind === 'run') {
        (row as RunRow).show(item, drawing);
      } else {
        (row as GroupRow).show(item, drawing);
      }
    }
    row.setTabbable(
      key === this._current || (this._current === null && place === 0)
    );
    const transform = `translateY(${top}px)`;
    if (row.node.style.transform !== transform) {
      row.node.style.transform = transform;
    }
    return row.node;
  }

  private _setCurrent(key: string | null): void {
    if (this._current === key) {
      return;
    }
    this._current = key;
    const name = key?.startsWith(RUN) ? key.slice(RUN.length) : null;
    if (this._options.focus) {
      this._options.focus.name = name;
    }
    this._rows.forEach((row, its) => row.setTabbable(its === key));
  }

  /** Focus the row at *place*, scrolling to it where it is not seen. */
  private _focus(place: number): void {
    if (!this._items[place]) {
      return;
    }
    const top = place ? this._ends[place - 1] : 0;
    const bottom = this._ends[place];
    const { scrollTop, clientHeight } = this.node;
    if (top < scrollTop) {
      this.node.scrollTop = place <= 1 ? 0 : top;
    } else if (bottom > scrollTop + clientHeight) {
      this.node.scrollTop = bottom - clientHeight;
    }
    const key = keyOf(this._items[place]);
    this._setCurrent(key);
    this._paint(false);
    this._rows.get(key)?.node.focus({ preventScroll: true });
  }

  private _onKey(event: KeyboardEvent): void {
    const onRow = (event.target as HTMLElement).getAttribute('role') === ITEM;
    const place = this._places.get(this._current ?? '') ?? -1;
    const item = this._items[place];
    if (
      event.key === 'ContextMenu' ||
      (event.shiftKey && event.key === 'F10')
    ) {
      this._openMenu(event.target as HTMLElement);
    } else if (!onRow || event.ctrlKey || event.altKey || event.metaKey) {
      if (event.key === 'Escape' && !onRow) {
        this.focusCurrent();
      }
      return;
    } else if (event.key === 'ArrowUp' && place <= 0) {
      this._options.leave();
    } else if (event.key in STEPS) {
      const page = Math.max(
        Math.floor(this.node.clientHeight / RUN_HEIGHT) - 1,
        1
      );
      const step = STEPS[event.key](page, this._items.length);
      const last = this._items.length - 1;
      this._focus(Math.min(Math.max(place + step, 0), last));
    } else if (item?.kind === 'group') {
      const opens = event.key === 'ArrowRight' && !item.isOpen;
      const closes = event.key === 'ArrowLeft' && item.isOpen;
      if (opens || closes || event.key === 'Enter' || event.key === ' ') {
        this._options.toggle(item.group);
      } else {
        return;
      }
    } else if (event.key === 'ArrowLeft') {
      this._focus(this._groupBefore(place));
    } else if (item && event.key in KEYS) {
      this._do(KEYS[event.key], { name: item.run.name });
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  private _groupBefore(place: number): number {
    while (place > 0 && this._items[place].kind === 'run') {
      place--;
    }
    return place;
  }

  private _onClick(event: MouseEvent): void {
    const target = event.target as HTMLElement;
    const button = target.closest<HTMLElement>('.jp-dstack-Action');
    const group = target.closest<HTMLElement>('.jp-dstack-GroupRow');
    if (button && button.dataset.more !== undefined) {
      this._openMenu(button);
    } else if (button) {
      this._do(button.dataset.command!, JSON.parse(button.dataset.args!));
    } else if (group) {
      this._options.toggle(group.dataset.group as GroupName);
    }
  }

  private _onDoubleClick(event: MouseEvent): void {
    const target = event.target as HTMLElement;
    const name = target.closest<HTMLElement>('.jp-dstack-RunRow')?.dataset.name;
    if (name && !target.closest('.jp-dstack-Action')) {
      this._do(CommandIDs.openLogs, { name });
    }
  }

  /** Whatever row is focused, clicked or asked for its menu is the current one. */
  private _onFocus(event: Event): void {
    const target = event.target as HTMLElement;
    const row = target.closest<HTMLElement>(`[role=${ITEM}]`);
    if (row) {
      const { name, group } = row.dataset;
      this._setCurrent(name ? RUN + name : GROUP + group);
      if (name && event.type === 'contextmenu') {
        this._options.menu(name);
      }
    }
  }

  /** Open the row's menu as a right click does, at *node*. */
  private _openMenu(node: HTMLElement): void {
    const { left, bottom } = node.getBoundingClientRect();
    node.dispatchEvent(
      new MouseEvent('contextmenu', {
        bubbles: true,
        cancelable: true,
        clientX: left + 4,
        clientY: bottom - 4
      })
    );
  }

  private _do(command: string, args: any): void {
    const { commands } = this._options;
    if (commands.hasCommand(command) && commands.isEnabled(command, args)) {
      void commands.execute(command, args);
    }
  }

  private _tree: HTMLElement;
  private _items: readonly Item[] = [];
  /** Where each item ends, in pixels from the top. */
  private _ends: number[] = [];
  private _places = new Map<string, number>();
  private _rows = new Map<string, RunRow | GroupRow>();
  private _current: string | null = null;
}

/** What a `RunList` is made of. */
export namespace RunList {
  /** The options of a new list. */
  export interface IOptions {
    commands: CommandRegistry;
    trans: TranslationBundle;
    /** Where the focused run's name is kept for commands. */
    focus: IFocus | null;
    drawing: () => IDrawing;
    toggle: (group: GroupName) => void;
    /** The menu of that run is about to open. */
    menu: (name: string) => void;
    /** The reader goes up from the first row. */
    leave: () => void;
  }
}

const EVENTS = [
  'scroll',
  'click',
  'dblclick',
  'keydown',
  'focusin',
  'contextmenu'
];
const ITEM = 'treeitem';
const RUN = 'run ';
const GROUP = 'group ';

const KEYS: Record<string, string> = {
  Enter: CommandIDs.openLogs,
  Delete: CommandIDs.stop
};

const STEPS: Record<string, (page: number, count: number) => number> = {
  ArrowDown: () => 1,
  ArrowUp: () => -1,
  PageDown: page => page,
  PageUp: page => -page,
  Home: (_, count) => -count,
  End: (_, count) => count
};

function keyOf(item: Item): string {
  return item.kind === 'run' ? RUN + item.run.name : GROUP + item.group;
}
