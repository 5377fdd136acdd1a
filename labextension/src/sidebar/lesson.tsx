/** What an empty section says: what would stand here, and the cell that makes it so. */
import { TranslationBundle } from '@jupyterlab/translation';
import { CommandRegistry } from '@lumino/commands';

import { h } from '../jsx';
import { CommandIDs } from '../tokens';

/** What a lesson is made of. */
export interface ILesson {
  text: string;
  /** The cell to begin with, if one helps. */
  cell?: string;
  trans: TranslationBundle;
  commands: CommandRegistry;
}

/** A sentence, an example and a button that inserts it. */
export function Lesson({ text, cell, trans, commands }: ILesson) {
  const insert = () =>
    void commands.execute(CommandIDs.insertText, { text: cell });
  const canInsert = commands.hasCommand(CommandIDs.insertText);
  return (
    <div className="jp-dstack-Lesson">
      <p>{text}</p>
      {cell && <pre className="jp-dstack-Example">{cell.trimEnd()}</pre>}
      {cell && canInsert && (
        <button
          type="button"
          className="jp-dstack-Button jp-mod-styled"
          onClick={insert}
        >
          {trans.__('Insert this cell')}
        </button>
      )}
    </div>
  );
}
