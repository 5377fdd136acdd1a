/**
 * Shows a log screen: only the lines in sight are drawn, at most once a frame, so that a hundred
 * thousand of them are as smooth as a hundred. Follows the end until the reader scrolls up.
 */
import { Message } from '@lumino/messaging';
import { ISignal, Signal } from '@lumino/signaling';
import { Widget } from '@lumino/widgets';

import { drawLine } from './rendering';
import { Line, LogScreen } from './screen';
import { IMatch, LogSearch } from './search';
import { LogSelection } from './selection';

const VIEWPORT_CLASS = 'jp-dstack-LogViewport';
const LINE_CLASS = 'jp-dstack-LogViewport-line';

/** How many lines are drawn beyond both edges. */
const OVERSCAN = 12;

/** A line that is drawn, and what of. */
interface IDrawn {
  node: HTMLElement;
  line: Line | null;
  version: number;
  marks: string;
  top: number;
}

/** A scrolled view of lines, all of one height. */
export class LogViewport extends Widget {
  /** Show *screen*; the view is called *label* by screen readers. */
  constructor(
    private readonly screen: LogScreen,
    label: string
  ) {
    super();
    this.addClass(VIEWPORT_CLASS);
    this.node.tabIndex = 0;
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', label);
    this.node.setAttribute('data-jp-suppress-context-menu', '');
    this._ruler = element(LINE_CLASS, 'jp-mod-ruler');
    this._ruler.setAttribute('aria-hidden', 'true');
    this._sheet = element('jp-dstack-LogViewport-sheet');
    this.node.append(this._ruler, this._sheet);
    this.selection = new LogSelection(this._sheet, screen);
    this._resized = new ResizeObserver(() => this._measure());
  }

  readonly selection: LogSelection;

  /** What is looked for; its places are marked. */
  search: LogSearch | null = null;

  /** Whether the end is kept in sight. */
  get following(): boolean {
    return this._following;
  }
  set following(on: boolean) {
    if (on === this._following) {
      return;
    }
    this._following = on;
    this._followed.emit();
    this.refresh();
  }

  /** Emitted after `following` has changed. */
  get followed(): ISignal<this, void> {
    return this._followed;
  }

  /** The number of the first line in sight. */
  get top(): number {
    const above = Math.floor(this.node.scrollTop / this._height);
    return this.screen.dropped + above;
  }

  /** Draw what has changed, in the next frame. */
  refresh(): void {
    if (!this._frame && this.isVisible) {
      this._frame = requestAnimationFrame(() => {
        this._frame = 0;
        this._draw();
      });
    }
  }

  /** Forget what was drawn, for the screen was cleared. */
  reset(): void {
    this._drawn.forEach(each => each.node.remove());
    this._drawn.clear();
    this._dropped = 0;
    this.selection.isAll = false;
    this.following = true;
    this.refresh();
  }

  /** Bring a found place into sight. */
  reveal(match: IMatch): void {
    this.following = false;
    const { node } = this;
    const at = (match.line - this.screen.dropped) * this._height;
    const bottom = node.scrollTop + node.clientHeight - 2 * this._height;
    if (at < node.scrollTop + this._height || at > bottom) {
      node.scrollTop = at - node.clientHeight / 2;
    }
    this._draw();
    const mark = this._sheet.querySelector<HTMLElement>('.jp-mod-current');
    if (mark) {
      const right = mark.offsetLeft + mark.offsetWidth;
      const isInSight =
        mark.offsetLeft >= node.scrollLeft &&
        right <= node.scrollLeft + node.clientWidth;
      if (!isInSight) {
        node.scrollLeft = Math.max(right - node.clientWidth * 0.7, 0);
      }
    }
  }

  /** Let go of everything. */
  dispose(): void {
    cancelAnimationFrame(this._frame);
    this._resized.disconnect();
    super.dispose();
  }

  /** Handle the events of the view. */
  handleEvent(event: Event): void {
    switch (event.type) {
      case 'scroll':
        this._onScroll();
        break;
      case 'keydown':
        this._onKey(event as KeyboardEvent);
        break;
      case 'mousedown':
        this._selectAll(false);
        break;
      case 'copy':
        this._onCopy(event as ClipboardEvent);
        break;
    }
  }

  protected onAfterAttach(_: Message): void {
    for (const type of ['scroll', 'keydown', 'mousedown', 'copy']) {
      this.node.addEventListener(type, this);
    }
    this._resized.observe(this._ruler);
    this._resized.observe(this.node);
    this._measure();
  }

  protected onBeforeDetach(_: Message): void {
    for (const type of ['scroll', 'keydown', 'mousedown', 'copy']) {
      this.node.removeEventListener(type, this);
    }
    this._resized.disconnect();
  }

  protected onAfterShow(_: Message): void {
    // A hidden element forgets where it was scrolled to.
    if (!this._following) {
      this.node.scrollTop = this._lastTop;
    }
    this.refresh();
  }

  private _measure(): void {
    const { width, height } = this._ruler.getBoundingClientRect();
    if (height && (height !== this._height || width / 100 !== this._column)) {
      this._height = height;
      this._column = width / 100;
    }
    this.refresh();
  }

  private _draw(): void {
    const { screen, node } = this;
    const { dropped, end } = screen;
    const width = `${Math.ceil(screen.widest * this._column)}px`;
    const height = `${(end - dropped) * this._height}px`;
    if (this._sheet.style.height !== height) {
      this._sheet.style.height = height;
    }
    if (this._sheet.style.minWidth !== width) {
      this._sheet.style.minWidth = width;
    }
    this._keepInPlace(dropped);
    const { scrollTop, clientHeight } = node;
    const first = dropped + Math.floor(scrollTop / this._height) - OVERSCAN;
    const count = Math.ceil(clientHeight / this._height) + 2 * OVERSCAN;
    const start = Math.max(first, dropped);
    const stop = Math.min(Math.max(first + count, start), end);
    this._place(start, stop);
  }

  /** Scroll so that the reader sees the same lines as before, or the end where it is followed. */
  private _keepInPlace(dropped: number): void {
    const { node } = this;
    if (this._following) {
      node.scrollTop = node.scrollHeight;
    } else if (dropped > this._dropped) {
      node.scrollTop -= (dropped - this._dropped) * this._height;
    }
    this._dropped = dropped;
    this._lastTop = node.scrollTop;
  }

  /** Have the lines from *start* to before *stop* drawn, and those that a selection holds. */
  private _place(start: number, stop: number): void {
    const { dropped, end } = this.screen;
    const held = this.selection.held.filter(
      line =>
        (line < start || line >= stop) &&
        line >= dropped &&
        line < end &&
        this._drawn.has(line)
    );
    for (const [number, { node }] of this._drawn) {
      if ((number < start || number >= stop) && !held.includes(number)) {
        node.remove();
        this._drawn.delete(number);
      }
    }
    const before = held.filter(line => line < start);
    const after = held.filter(line => line >= stop);
    let next = this._sheet.firstElementChild;
    const put = (number: number) => {
      const { node } = this._drawnLine(number);
      if (node === next) {
        next = node.nextElementSibling;
      } else {
        this._sheet.insertBefore(node, next);
      }
    };
    Array.from(new Set(before)).forEach(put);
    for (let number = start; number < stop; number += 1) {
      put(number);
    }
    Array.from(new Set(after)).forEach(put);
  }

  private _drawnLine(number: number): IDrawn {
    let drawn = this._drawn.get(number);
    if (!drawn) {
      const node = element(LINE_CLASS);
      node.dataset.line = String(number);
      drawn = { node, line: null, version: -1, marks: '', top: -1 };
      this._drawn.set(number, drawn);
    }
    const top = (number - this.screen.dropped) * this._height;
    if (drawn.top !== top) {
      drawn.top = top;
      drawn.node.style.top = `${top}px`;
    }
    const line = this.screen.at(number);
    const matches = this.search?.in(number) ?? [];
    const current = this.search?.matches[this.search.current];
    const marks = matches
      .map(
        match => `${match.start}-${match.stop}${match === current ? '!' : ''}`
      )
      .join();
    const isSame =
      drawn.line === line &&
      drawn.version === line.version &&
      drawn.marks === marks;
    if (!isSame) {
      drawLine(drawn.node, line, matches, current);
      Object.assign(drawn, { line, version: line.version, marks });
    }
    return drawn;
  }

  private _onScroll(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.node;
    if (Math.abs(scrollTop - this._lastTop) >= 1) {
      const left = scrollHeight - scrollTop - clientHeight;
      if (scrollTop < this._lastTop && left > 1) {
        this.following = false;
      } else if (left < this._height) {
        this.following = true;
      }
      this._lastTop = scrollTop;
    }
    this.refresh();
  }

  private _onKey(event: KeyboardEvent): void {
    const isAccel = event.ctrlKey || event.metaKey;
    if (event.altKey || event.shiftKey) {
      return;
    }
    if (event.key === 'End') {
      this.following = true;
    } else if (event.key === 'Home') {
      this.following = false;
      this.node.scrollTop = 0;
    } else if (isAccel && event.key.toLowerCase() === 'a') {
      this._selectAll(true);
    } else if (event.key === 'Escape' && this.selection.isAll) {
      this._selectAll(false);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  private _onCopy(event: ClipboardEvent): void {
    const { text } = this.selection;
    if (text && event.clipboardData) {
      event.clipboardData.setData('text/plain', text);
      event.preventDefault();
    }
  }

  private _selectAll(on: boolean): void {
    this.selection.isAll = on;
    this.toggleClass('jp-mod-allSelected', on);
    if (on) {
      document.getSelection()?.removeAllRanges();
    }
  }

  private readonly _ruler: HTMLElement;
  private readonly _sheet: HTMLElement;
  private readonly _resized: ResizeObserver;
  private readonly _drawn = new Map<number, IDrawn>();
  private _height = 17;
  private _column = 8;
  private _following = true;
  private _lastTop = 0;
  private _dropped = 0;
  private _frame = 0;
  private _followed = new Signal<this, void>(this);
}

function element(...classes: string[]): HTMLElement {
  const node = document.createElement('div');
  node.classList.add(...classes);
  return node;
}
