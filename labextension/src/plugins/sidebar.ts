/** The sidebar of runs, services, machines and offers, in JupyterLab and in Notebook. */
import {
  ILayoutRestorer,
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStateDB } from '@jupyterlab/statedb';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { IDisposable } from '@lumino/disposable';

import { Preferences } from '../preferences';
import { openPorts } from '../sidebar/actions';
import { Memory } from '../sidebar/memory';
import { Sidebar } from '../sidebar/panel';
import { CommandIDs, IFocus, IModel } from '../tokens';

export const sidebar: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:sidebar',
  description: 'Shows everything that runs.',
  autoStart: true,
  requires: [IModel],
  optional: [
    IFocus,
    ILayoutRestorer,
    IStateDB,
    ISettingRegistry,
    ICommandPalette,
    ITranslator
  ],
  activate: (
    app: JupyterFrontEnd,
    model: IModel,
    focus: IFocus | null,
    restorer: ILayoutRestorer | null,
    state: IStateDB | null,
    registry: ISettingRegistry | null,
    palette: ICommandPalette | null,
    translator: ITranslator | null
  ): void => {
    const translates = translator ?? nullTranslator;
    const trans = translates.load('dstack_jupyter');
    const panel = new Sidebar(
      {
        model,
        commands: app.commands,
        preferences: new Preferences(registry),
        serverSettings: app.serviceManager.serverSettings,
        memory: new Memory(state),
        focus,
        trans
      },
      translates
    );
    restorer?.add(panel, panel.id);
    app.shell.add(panel, 'left', { rank: 350, type: 'dstack' });
    void panel.restore();

    app.commands.addCommand(CommandIDs.showSidebar, {
      label: trans.__('Show dstack'),
      caption: trans.__('Show everything that runs'),
      describedBy: { args: null },
      execute: () => {
        app.shell.activateById(panel.id);
        panel.focusFilter();
      }
    });
    palette?.addItem({
      command: CommandIDs.showSidebar,
      category: trans.__('dstack')
    });
    prepareMenu(app, model, panel);
  }
};

/**
 * Complete a run's menu as it opens: it has an item for the first port, and here gets one for each
 * of the others. When it closes, the focus goes back to the run.
 */
function prepareMenu(
  app: JupyterFrontEnd,
  model: IModel,
  panel: Sidebar
): void {
  let added: IDisposable[] = [];
  const { contextMenu } = app;
  const giveBack = () => {
    contextMenu.menu.aboutToClose.disconnect(giveBack);
    panel.focusCurrent();
  };
  panel.menuOpens.connect((_, name) => {
    added.forEach(item => item.dispose());
    const run = model.run(name);
    added = (run ? openPorts(run) : []).slice(1).map(({ port }) =>
      contextMenu.addItem({
        command: CommandIDs.openPort,
        args: { name, port },
        selector: '.jp-dstack-RunRow',
        rank: 2.5
      })
    );
    contextMenu.menu.aboutToClose.connect(giveBack);
  });
}
