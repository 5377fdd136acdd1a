/** Helps while a `%%dstack` cell is written: marks what is wrong, tells what keys mean. */
import {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { IEditorExtensionRegistry } from '@jupyterlab/codemirror';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

import { IProblem, IReference } from '../records';
import { post, request } from '../server';
import { Checks } from '../typing/checker';
import { inCodeCells } from '../typing/editors';
import { hovering, KeyHelp } from '../typing/hover';

const ID = 'dstack-jupyter:typing';

export const typing: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: 'Checks %%dstack cells while they are written.',
  autoStart: true,
  optional: [IEditorExtensionRegistry, ISettingRegistry, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    editors: IEditorExtensionRegistry | null,
    registry: ISettingRegistry | null,
    translator: ITranslator | null
  ) => {
    if (!editors) {
      return;
    }
    const { serverSettings } = app.serviceManager;
    const checks = new Checks({
      ask: text => post<IProblem[]>(serverSettings, 'check', { text }),
      trans: (translator ?? nullTranslator).load('dstack_jupyter')
    });
    const help = new KeyHelp(() =>
      request<IReference>(serverSettings, 'reference')
    );
    const support = [checks.extension, hovering(help)];
    editors.addExtension(inCodeCells(ID, support));
    registry?.load(ID).then(
      settings => {
        const read = () => {
          checks.isOn = settings.get('checks').composite !== false;
          help.isOn = settings.get('help').composite !== false;
        };
        settings.changed.connect(read);
        read();
      },
      () => undefined // without the schema the defaults hold
    );
  }
};
