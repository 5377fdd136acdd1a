/** What a pointer that rests on a word of a cell is told: its problem, and what the key means. */
import { Extension } from '@codemirror/state';
import { hoverTooltip, Tooltip, tooltips } from '@codemirror/view';

import { IReference } from '../records';
import { bubble } from './bubble';
import { configurationOf } from './cells';
import { keyAt } from './keys';
import { markIn } from './problems';

/** The help for keys, asked for once. */
export class KeyHelp {
  /** *ask* returns the help for all keys. */
  constructor(private readonly _ask: () => Promise<IReference>) {}

  /** Whether keys are explained. */
  isOn = true;

  /** Return the line of help for a key; null where there is none, or nobody can tell. */
  async of(kind: string, path: string): Promise<string | null> {
    if (!this.isOn) {
      return null;
    }
    this._reference ??= this._ask();
    try {
      return (await this._reference)[kind]?.[path] ?? null;
    } catch {
      this._reference = null; // the next one to ask may have more luck
      return null;
    }
  }

  private _reference: Promise<IReference> | null = null;
}

/** Return what explains words, for an editor of a `%%dstack` cell. */
export function hovering(help: KeyHelp): Extension {
  return [
    // Cells cut off what hangs over their edge.
    tooltips({ parent: document.body }),
    hoverTooltip(async ({ state }, place): Promise<Tooltip | null> => {
      const configuration = configurationOf(state.doc);
      const mark = markIn(state, place);
      const key = configuration && keyAt(state.doc, place, configuration.line);
      const line = key && (await help.of(configuration.kind, key.path));
      if (!mark && !line) {
        return null;
      }
      const dom = bubble({
        problem: mark?.message,
        key: key?.path,
        help: line ?? undefined
      });
      const { from, to } = (line ? key : null) ?? mark!;
      return { pos: from, end: to, above: true, create: () => ({ dom }) };
    })
  ];
}
