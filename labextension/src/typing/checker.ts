/** Checks a cell while it is written: asks the server once somebody pauses, shows what it answers. */
import { Extension } from '@codemirror/state';
import {
  EditorView,
  PluginValue,
  ViewPlugin,
  ViewUpdate
} from '@codemirror/view';
import { TranslationBundle } from '@jupyterlab/translation';

import { IProblem } from '../records';
import { configurationOf } from './cells';
import { marksOf } from './marks';
import { marksIn, problems, setMarks } from './problems';

/** So long somebody pauses before the cell is checked, in milliseconds. */
const PAUSE = 400;
/** A longer cell is not sent. */
const LONGEST = 100_000;

/** The checks of all cells of a page. */
export class Checks {
  /** *ask* returns what is wrong with a cell's text, or rejects where nobody can tell. */
  constructor(options: Checks.IOptions) {
    this._options = options;
    const plugin = ViewPlugin.define(
      view => new Checker(view, this, this._options.trans)
    );
    this.extension = [
      problems(),
      plugin,
      EditorView.contentAttributes.of(
        view => view.plugin(plugin)?.attributes ?? null
      )
    ];
  }

  /** What checks an editor, to be put into those of `%%dstack` cells. */
  readonly extension: Extension;

  /** Whether cells are checked. */
  get isOn(): boolean {
    return this._isOn;
  }
  set isOn(on: boolean) {
    if (on !== this._isOn) {
      this._isOn = on;
      this._checkers.forEach(checker => checker.look());
    }
  }

  /** Return what is wrong with *text*; nothing where nobody can tell. */
  async problemsIn(text: string): Promise<readonly IProblem[]> {
    try {
      const found = await this._options.ask(text);
      return Array.isArray(found) ? found : [];
    } catch {
      return []; // a cell can be written without a server that helps
    }
  }

  /** Know of a cell's checker, until it is forgotten. */
  add(checker: Checker): void {
    this._checkers.add(checker);
  }

  /** Forget a cell's checker. */
  remove(checker: Checker): void {
    this._checkers.delete(checker);
  }

  private _isOn = true;
  private readonly _checkers = new Set<Checker>();
  private readonly _options: Checks.IOptions;
}

/** A namespace for `Checks` statics. */
export namespace Checks {
  /** What the checks need. */
  export interface IOptions {
    ask: (text: string) => Promise<readonly IProblem[]>;
    trans: TranslationBundle;
  }
}

/** The checks of one cell. */
class Checker implements PluginValue {
  constructor(
    private readonly _view: EditorView,
    private readonly _checks: Checks,
    private readonly _trans: TranslationBundle
  ) {
    this._words = document.createElement('div');
    this._words.id = `jp-dstack-Typing-words-${Checker._made++}`;
    this._words.className = 'jp-dstack-Typing-words';
    this._words.setAttribute('role', 'status');
    _view.dom.append(this._words);
    _checks.add(this);
    this.look();
  }

  /** What the text says of itself to those who do not see the marks. */
  get attributes(): Record<string, string> | null {
    return marksIn(this._view.state).length > 0
      ? { 'aria-invalid': 'true', 'aria-describedby': this._words.id }
      : null;
  }

  update(update: ViewUpdate): void {
    if (update.docChanged) {
      this.look();
    }
    if (marksIn(update.state) !== marksIn(update.startState)) {
      this._words.textContent = this._sentence();
    }
  }

  /** Check the cell after a pause. */
  look(): void {
    window.clearTimeout(this._timer);
    this._timer = window.setTimeout(() => void this._check(), PAUSE);
  }

  destroy(): void {
    window.clearTimeout(this._timer);
    this._isDestroyed = true;
    this._checks.remove(this);
    this._words.remove();
  }

  private async _check(): Promise<void> {
    const { doc } = this._view.state;
    const isWanted =
      this._checks.isOn && doc.length <= LONGEST && configurationOf(doc);
    const found = isWanted ? await this._checks.problemsIn(doc.toString()) : [];
    const isStale = !this._view.state.doc.eq(doc);
    if (this._isDestroyed || isStale) {
      return; // the change that came meanwhile has its own check
    }
    const marks = marksOf(doc, found);
    if (marks.length > 0 || marksIn(this._view.state).length > 0) {
      this._view.dispatch({ effects: setMarks.of(marks) });
    }
  }

  private _sentence(): string {
    const { doc } = this._view.state;
    const marks = marksIn(this._view.state);
    if (marks.length === 0) {
      return '';
    }
    const lines = marks.map(mark =>
      this._trans.__(
        'Line %1: %2.',
        doc.lineAt(mark.from).number,
        mark.message.replace(/\n/g, '; ')
      )
    );
    const count = this._trans._n(
      '%1 problem in this cell.',
      '%1 problems in this cell.',
      marks.length
    );
    return [count, ...lines, this._trans.__('F8 goes to the next.')].join(' ');
  }

  /** Elements need names of their own. */
  private static _made = 0;

  private _timer = 0;
  private _isDestroyed = false;
  private readonly _words: HTMLElement;
}
