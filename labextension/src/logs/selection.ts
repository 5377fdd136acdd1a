/**
 * What a reader has selected in a log of which only the lines in sight are drawn.
 *
 * The browser selects among drawn lines; those where a selection begins and ends stay drawn, and
 * its text is read from the screen.
 */
import { LogScreen } from './screen';

/** A place in the output: a line, and units of its text. */
interface IPlace {
  line: number;
  unit: number;
}

/** The selection within one element that holds drawn lines. */
export class LogSelection {
  /** Watch *sheet*, whose children are lines with their number in `data-line`. */
  constructor(
    private readonly sheet: HTMLElement,
    private readonly screen: LogScreen
  ) {}

  /** Whether everything is selected, drawn or not. */
  isAll = false;

  /** Return the numbers of the lines that must stay drawn. */
  get held(): number[] {
    const chosen = this._chosen();
    return chosen ? [chosen[0].line, chosen[1].line] : [];
  }

  /** The selected text; empty where nothing is selected. */
  get text(): string {
    if (this.isAll) {
      return this.screen.text();
    }
    const chosen = this._chosen();
    if (!chosen) {
      return '';
    }
    const [from, to] = chosen;
    const first = Math.max(from.line, this.screen.dropped);
    const last = Math.min(to.line, this.screen.end - 1);
    const lines: string[] = [];
    for (let number = first; number <= last; number += 1) {
      const { text } = this.screen.at(number);
      const start = number === from.line ? from.unit : 0;
      lines.push(text.slice(start, number === to.line ? to.unit : undefined));
    }
    return lines.join('\n');
  }

  /** Return the beginning and the end, in this order. */
  private _chosen(): [IPlace, IPlace] | null {
    const selection = document.getSelection();
    if (!selection || selection.isCollapsed || !selection.rangeCount) {
      return null;
    }
    const range = selection.getRangeAt(0);
    if (!range.intersectsNode(this.sheet)) {
      return null;
    }
    const from = this._place(range.startContainer, range.startOffset);
    const to = this._place(range.endContainer, range.endOffset);
    return from && to ? [from, to] : null;
  }

  private _place(node: Node, offset: number): IPlace | null {
    const element = node instanceof Element ? node : node.parentElement;
    const row = element?.closest<HTMLElement>('[data-line]');
    if (row && this.sheet.contains(row)) {
      const before = document.createRange();
      before.setStart(row, 0);
      before.setEnd(node, offset);
      return { line: Number(row.dataset.line), unit: before.toString().length };
    }
    if (node === this.sheet) {
      const next = this.sheet.children[offset] as HTMLElement | undefined;
      return next?.dataset.line
        ? { line: Number(next.dataset.line), unit: 0 }
        : this._end();
    }
    // The selection begins above the log, or ends below it.
    const isBefore =
      this.sheet.compareDocumentPosition(node) &
      Node.DOCUMENT_POSITION_PRECEDING;
    return isBefore ? { line: this.screen.dropped, unit: 0 } : this._end();
  }

  private _end(): IPlace {
    return { line: this.screen.end - 1, unit: Infinity };
  }
}
