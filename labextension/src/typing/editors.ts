/** Where the help for `%%dstack` cells goes: the editors of code cells, in notebooks and consoles. */
import { Extension } from '@codemirror/state';
import {
  EditorExtensionRegistry,
  IEditorExtensionFactory
} from '@jupyterlab/codemirror';

import { whileOurs } from './cells';

/** Return what gives *support* to the code cells among the editors, and nothing to the others. */
export function inCodeCells(
  name: string,
  support: Extension
): IEditorExtensionFactory {
  return {
    name,
    factory: ({ model }) => {
      const { type } = model as { type?: string };
      return type === 'code'
        ? EditorExtensionRegistry.createImmutableExtension(
            whileOurs(support, model.sharedModel.getSource())
          )
        : null;
    }
  };
}
