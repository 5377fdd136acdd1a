/** The item of the status bar: how many runs go on, and what they cost an hour. */
import { TranslationBundle } from '@jupyterlab/translation';
import { ISignal, Signal } from '@lumino/signaling';
import { Widget } from '@lumino/widgets';

import {
  elapsedText,
  hourlyText,
  signOf,
  statusWord,
  totalsText
} from '../format';
import { IRunRow } from '../records';
import { IModel } from '../tokens';

/** So many runs are listed in the tooltip. */
const LISTED = 15;

/** A button that changes only when what it says does. */
export class StatusItem extends Widget {
  constructor(private readonly options: StatusItem.IOptions) {
    super();
    this.addClass('jp-dstack-Status');
    this._button = document.createElement('button');
    this._button.type = 'button';
    this._button.className = 'jp-dstack-Status-button';
    this._button.addEventListener('click', () => options.open());
    for (const type of ['pointerenter', 'focus']) {
      this._button.addEventListener(type, () => this._list());
    }
    this.node.append(this._button);
    options.model.changed.connect(this._onModel, this);
    this._onModel();
  }

  /** Whether there is anything to say: something was run once. */
  get isActive(): boolean {
    return this._isActive;
  }

  /** Emitted after `isActive` has changed. */
  get activeChanged(): ISignal<this, void> {
    return this._activeChanged;
  }

  /** Let go of everything. */
  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this.options.model.changed.disconnect(this._onModel, this);
    super.dispose();
    Signal.clearData(this);
  }

  private _onModel(): void {
    const { model, trans } = this.options;
    const text = totalsText(model.runs, trans);
    if (text !== this._button.textContent) {
      this._button.textContent = text;
      this._button.setAttribute('aria-label', trans.__('dstack: %1', text));
      this._list();
    }
    const isActive = model.runs.length > 0;
    if (isActive !== this._isActive) {
      this._isActive = isActive;
      this._activeChanged.emit();
    }
  }

  /** Say in the tooltip which runs go on. */
  private _list(): void {
    const { model, trans } = this.options;
    const active = model.runs.filter(run => !run.finished);
    const lines = active.slice(0, LISTED).map(run => this._line(run));
    if (active.length > LISTED) {
      lines.push(trans.__('… and %1 more', active.length - LISTED));
    }
    const title = lines.length
      ? lines.join('\n')
      : trans.__('dstack: nothing runs. Click to show the sidebar.');
    if (title !== this._button.title) {
      this._button.title = title;
    }
  }

  private _line(run: IRunRow): string {
    const { model, trans } = this.options;
    const parts = [
      `${signOf(run)} ${run.name}`,
      statusWord(run, trans),
      elapsedText(run, model.now())
    ];
    if (run.price) {
      parts.push(hourlyText(run.price));
    }
    return parts.join(' · ');
  }

  private readonly _button: HTMLButtonElement;
  private _isActive = false;
  private _activeChanged = new Signal<this, void>(this);
}

export namespace StatusItem {
  export interface IOptions {
    model: IModel;
    /** Show the sidebar. */
    open: () => void;
    trans: TranslationBundle;
  }
}
