/** Tells when runs have ended, with what can be done next. */
import {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { CommandRegistry } from '@lumino/commands';

import { ITranslate } from '../format';
import { IRunRow } from '../records';
import { Wish, isTold, noticeOf } from '../status/endings';
import { Gathering } from '../status/gathering';
import { CommandIDs, IFocus, IModel } from '../tokens';

const PLUGIN = 'dstack-jupyter:notifications';
/** Runs that end within this time are told together, in milliseconds. */
const TOGETHER = 700;
/** What went well is shown for so long, in milliseconds. */
const SHOWN = 6_000;

export const notifications: JupyterFrontEndPlugin<void> = {
  id: PLUGIN,
  description: 'Tells when runs have ended.',
  autoStart: true,
  requires: [IModel],
  optional: [IFocus, ISettingRegistry, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    model: IModel,
    focus: IFocus | null,
    registry: ISettingRegistry | null,
    translator: ITranslator | null
  ): void => {
    const { commands } = app;
    const trans = (translator ?? nullTranslator).load('dstack_jupyter');
    const stopped = stoppedHere(commands, focus);
    let wish: Wish = 'all';
    registry?.load(PLUGIN).then(
      settings => {
        const read = () => {
          wish = settings.composite['notifications'] as Wish;
        };
        settings.changed.connect(read);
        read();
      },
      () => undefined // the schema is not there: all are told
    );
    const gathering = new Gathering<IRunRow>(TOGETHER, runs =>
      tell(runs, commands, trans)
    );
    model.ended.connect((_, run) => {
      if (isTold(run, wish, stopped.delete(run.name))) {
        gathering.add(run);
      }
    });
  }
};

/** Return the names of runs that this page has asked to stop; they are taken out by the reader. */
function stoppedHere(
  commands: CommandRegistry,
  focus: IFocus | null
): Set<string> {
  const names = new Set<string>();
  commands.commandExecuted.connect((_, { id, args }) => {
    if (id === CommandIDs.stop || id === CommandIDs.abort) {
      names.add(String(args['name'] ?? focus?.name ?? ''));
    }
  });
  return names;
}

function tell(
  runs: IRunRow[],
  commands: CommandRegistry,
  trans: ITranslate
): void {
  const { kind, message } = noticeOf(runs, trans);
  const action = (
    label: string,
    command: string,
    args: { name?: string } = {}
  ): Notification.IAction => ({
    label,
    callback: () => void commands.execute(command, args)
  });
  const actions: Notification.IAction[] = [];
  const add = (
    label: string,
    command: string,
    args: { name?: string } = {}
  ) => {
    if (commands.hasCommand(command) && commands.isEnabled(command, args)) {
      actions.push(action(label, command, args));
    }
  };
  if (runs.length === 1) {
    const { name, status } = runs[0];
    add(trans.__('Logs'), CommandIDs.openLogs, { name });
    if (status === 'failed') {
      add(trans.__('Run again'), CommandIDs.rerun, { name });
    } else {
      add(trans.__('Insert attach'), CommandIDs.insertAttach, { name });
    }
  } else {
    add(trans.__('Show runs'), CommandIDs.showSidebar);
  }
  Notification.emit(message, kind, {
    actions,
    autoClose: kind === 'error' ? false : SHOWN
  });
}
