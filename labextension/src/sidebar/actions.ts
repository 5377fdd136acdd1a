/** What can be done with a run, by its state: the buttons of its row. Pure. */
import { ReadonlyPartialJSONObject } from '@lumino/coreutils';

import { ITranslate } from '../format';
import { IRunRow } from '../records';
import { CommandIDs } from '../tokens';

/** One button: a command with its arguments and its whole label. */
export interface IAction {
  command: string;
  args: ReadonlyPartialJSONObject;
  label: string;
}

/** Ports that have a button of their own; the others are in the menu. */
const BUTTONS = 2;

/** Return the actions of a run's row, in their order. */
export function actionsOf(
  run: IRunRow,
  readOnly: boolean,
  trans: ITranslate
): IAction[] {
  const { name } = run;
  const actions: IAction[] = [
    {
      command: CommandIDs.openLogs,
      args: { name },
      label: trans.__('Logs of %1', name)
    }
  ];
  for (const { port } of openPorts(run).slice(0, BUTTONS)) {
    const label = trans.__('Open port %1 of %2', port, name);
    actions.push({ command: CommandIDs.openPort, args: { name, port }, label });
  }
  if (run.type === 'service' && !run.finished) {
    const label = trans.__('Open %1', name);
    actions.push({ command: CommandIDs.openService, args: { name }, label });
  }
  if (!readOnly && isStoppable(run)) {
    const label = trans.__('Stop %1', name);
    actions.push({ command: CommandIDs.stop, args: { name }, label });
  }
  if (!readOnly && run.finished) {
    const label = trans.__('Run %1 again', name);
    actions.push({ command: CommandIDs.rerun, args: { name }, label });
  }
  return actions;
}

/** Tell whether a stop would change anything: the run is active and not on its way out. */
export function isStoppable(run: IRunRow): boolean {
  return !run.finished && run.status !== 'terminating';
}

/** Return the ports that answer now. */
export function openPorts(run: IRunRow): IRunRow['ports'] {
  return run.finished ? [] : run.ports;
}
