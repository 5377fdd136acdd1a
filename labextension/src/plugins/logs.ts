/** Opens the logs of runs in panels of the main area, and again after the page was reloaded. */
import {
  ILabShell,
  ILayoutRestorer,
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ICommandPalette, WidgetTracker } from '@jupyterlab/apputils';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { ReadonlyPartialJSONObject } from '@lumino/coreutils';

import { LogPanel } from '../logs/panel';
import { addToMain } from '../placing';
import { CommandIDs, IFocus, IModel } from '../tokens';

export const logs: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:logs',
  description: 'Shows what runs print.',
  autoStart: true,
  requires: [IModel],
  optional: [IFocus, ICommandPalette, ILabShell, ILayoutRestorer, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    model: IModel,
    focus: IFocus | null,
    palette: ICommandPalette | null,
    labShell: ILabShell | null,
    restorer: ILayoutRestorer | null,
    translator: ITranslator | null
  ): void => {
    const trans = (translator ?? nullTranslator).load('dstack_jupyter');
    const tracker = new WidgetTracker<LogPanel>({ namespace: 'dstack-logs' });
    const nameOf = (args: ReadonlyPartialJSONObject) =>
      String(args['name'] ?? focus?.name ?? '');

    const open = (name: string): LogPanel => {
      const { serverSettings } = app.serviceManager;
      const panel = new LogPanel({ name, model, serverSettings, trans });
      panel.chosen.connect(() => void tracker.save(panel));
      void tracker.add(panel);
      return panel;
    };

    app.commands.addCommand(CommandIDs.openLogs, {
      label: trans.__('Open logs'),
      caption: trans.__('Show what the run prints'),
      describedBy: {
        args: {
          type: 'object',
          properties: {
            name: { type: 'string', description: trans.__("The run's name") },
            replica: {
              type: 'number',
              description: trans.__("A service's replica")
            }
          }
        }
      },
      isEnabled: args => nameOf(args) !== '',
      execute: args => {
        const name = nameOf(args);
        if (!name) {
          return;
        }
        const panel = tracker.find(each => each.name === name) ?? open(name);
        if (typeof args['replica'] === 'number') {
          panel.replica = args['replica'];
        }
        addToMain(app.shell, labShell, panel);
        return panel;
      }
    });
    palette?.addItem({
      command: CommandIDs.openLogs,
      category: trans.__('dstack')
    });
    focus?.changed.connect(() =>
      app.commands.notifyCommandChanged(CommandIDs.openLogs)
    );
    void restorer?.restore(tracker, {
      command: CommandIDs.openLogs,
      args: panel =>
        panel.replica === null
          ? { name: panel.name }
          : { name: panel.name, replica: panel.replica },
      name: panel => panel.name
    });
  }
};
