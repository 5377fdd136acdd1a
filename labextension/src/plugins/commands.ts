/** The commands of runs, for menus, keys, buttons and the palette. */
import {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

import { Commands } from '../commands';
import { Focus } from '../focus';
import { Insertion } from '../insertion';
import { Preferences } from '../preferences';
import { CommandIDs, IFocus, IModel } from '../tokens';

const PALETTE = [
  CommandIDs.refresh,
  CommandIDs.startEngine,
  CommandIDs.openPort,
  CommandIDs.openService,
  CommandIDs.copyName,
  CommandIDs.insertAttach,
  CommandIDs.insertCell,
  CommandIDs.rerun,
  CommandIDs.stop,
  CommandIDs.abort,
  CommandIDs.deleteRun
];

export const commands: JupyterFrontEndPlugin<IFocus> = {
  id: 'dstack-jupyter:commands',
  description: 'What can be done with runs.',
  autoStart: true,
  provides: IFocus,
  requires: [IModel],
  optional: [
    ICommandPalette,
    INotebookTracker,
    IDefaultFileBrowser,
    ISettingRegistry,
    ITranslator
  ],
  activate: (
    app: JupyterFrontEnd,
    model: IModel,
    palette: ICommandPalette | null,
    tracker: INotebookTracker | null,
    browser: IDefaultFileBrowser | null,
    registry: ISettingRegistry | null,
    translator: ITranslator | null
  ): IFocus => {
    const trans = (translator ?? nullTranslator).load('dstack_jupyter');
    const preferences = new Preferences(registry);
    const focus = new Focus();
    new Commands({
      commands: app.commands,
      model,
      focus,
      preferences,
      insertion: new Insertion(app, tracker, browser, trans),
      serverSettings: app.serviceManager.serverSettings,
      trans
    });
    const notify = () =>
      PALETTE.forEach(id => app.commands.notifyCommandChanged(id));
    focus.changed.connect(notify);
    preferences.changed.connect(notify);
    for (const command of PALETTE) {
      palette?.addItem({ command, category: trans.__('dstack') });
    }
    return focus;
  }
};
