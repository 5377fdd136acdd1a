/** Colours and indents `%%dstack` cells as what they are: a magic's line, and YAML below it. */
import {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { IEditorExtensionRegistry } from '@jupyterlab/codemirror';

import { inCodeCells } from '../typing/editors';
import { dstackLanguage } from '../typing/language';

export const highlight: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:highlight',
  description: 'Highlights the YAML in %%dstack cells.',
  autoStart: true,
  optional: [IEditorExtensionRegistry],
  activate: (_: JupyterFrontEnd, editors: IEditorExtensionRegistry | null) => {
    const language = dstackLanguage();
    editors?.addExtension(inCodeCells('dstack-jupyter:language', language));
  }
};
