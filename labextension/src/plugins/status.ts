/** Says in the status bar what runs, where there is a status bar. */
import {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

import { StatusItem } from '../status/item';
import { CommandIDs, IModel } from '../tokens';

export const status: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:status',
  description: 'Says in the status bar what runs and what it costs.',
  autoStart: true,
  requires: [IModel],
  optional: [IStatusBar, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    model: IModel,
    statusBar: IStatusBar | null,
    translator: ITranslator | null
  ): void => {
    if (!statusBar) {
      return;
    }
    const item = new StatusItem({
      model,
      open: () => {
        if (app.commands.hasCommand(CommandIDs.showSidebar)) {
          void app.commands.execute(CommandIDs.showSidebar);
        }
      },
      trans: (translator ?? nullTranslator).load('dstack_jupyter')
    });
    statusBar.registerStatusItem('dstack-jupyter:status', {
      item,
      align: 'left',
      rank: 10,
      isActive: () => item.isActive,
      activeStateChanged: item.activeChanged
    });
  }
};
