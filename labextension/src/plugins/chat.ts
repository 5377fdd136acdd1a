/** Opens chats with models in panels of the main area, and again after the page was reloaded. */
import {
  ILabShell,
  ILayoutRestorer,
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ICommandPalette, WidgetTracker } from '@jupyterlab/apputils';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { ReadonlyPartialJSONObject } from '@lumino/coreutils';

import { askThrough } from '../chat/asking';
import { Conversation } from '../chat/conversation';
import { ChatPanel } from '../chat/panel';
import { addToMain } from '../placing';
import { CommandIDs, IModel } from '../tokens';

export const chat: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:chat',
  description: 'Talks with the models that services serve.',
  autoStart: true,
  requires: [IModel],
  optional: [ICommandPalette, ILabShell, ILayoutRestorer, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    model: IModel,
    palette: ICommandPalette | null,
    labShell: ILabShell | null,
    restorer: ILayoutRestorer | null,
    translator: ITranslator | null
  ): void => {
    const { commands, serviceManager, shell } = app;
    const trans = (translator ?? nullTranslator).load('dstack_jupyter');
    const tracker = new WidgetTracker<ChatPanel>({ namespace: 'dstack-chat' });
    const ask = askThrough(serviceManager.serverSettings);

    // Without a name, the model that was served first.
    const nameOf = (args: ReadonlyPartialJSONObject) =>
      String(args['model'] ?? model.models[0]?.name ?? '');

    const open = (name: string): ChatPanel => {
      const conversation = new Conversation(name, ask);
      const panel = new ChatPanel({ conversation, model, commands, trans });
      void tracker.add(panel);
      return panel;
    };

    commands.addCommand(CommandIDs.tryModel, {
      label: trans.__('Chat with a model'),
      caption: trans.__('Open a chat with a model that a service serves'),
      describedBy: {
        args: {
          type: 'object',
          properties: {
            model: { type: 'string', description: trans.__("The model's name") }
          }
        }
      },
      isEnabled: args => nameOf(args) !== '',
      execute: args => {
        const name = nameOf(args);
        if (!name) {
          return;
        }
        const panel = tracker.find(each => each.model === name) ?? open(name);
        addToMain(shell, labShell, panel);
        return panel;
      }
    });
    palette?.addItem({
      command: CommandIDs.tryModel,
      category: trans.__('dstack')
    });
    void restorer?.restore(tracker, {
      command: CommandIDs.tryModel,
      args: panel => ({ model: panel.model }),
      name: panel => panel.model
    });
  }
};
