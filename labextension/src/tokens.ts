/** What the plugins of this extension know of each other. */
import { Token } from '@lumino/coreutils';
import { ISignal } from '@lumino/signaling';

import { IModelRow, IMachineRow, IRunRow, IServiceRow } from './records';

/** Why the page knows nothing newer. */
export type Trouble =
  | { kind: 'none' }
  /** The server answers, but no engine runs. */
  | { kind: 'engine-down' }
  /** The server has no dstack-jupyter, or has it disabled. */
  | { kind: 'not-installed' }
  | { kind: 'not-authorised' }
  /** The server is not reached. */
  | { kind: 'network' }
  | { kind: 'failed'; message: string; hint: string | null };

/** All that runs, kept up to date; one for a page. */
export interface IModel {
  /** Whether a first answer has come. */
  readonly isReady: boolean;
  readonly trouble: Trouble;
  /** The newest first. */
  readonly runs: readonly IRunRow[];
  readonly services: readonly IServiceRow[];
  readonly models: readonly IModelRow[];
  readonly machines: readonly IMachineRow[];
  /** Emitted after any of the above has changed, at most once a frame. */
  readonly changed: ISignal<IModel, void>;
  /** Emitted when a run that was seen active has ended. */
  readonly ended: ISignal<IModel, IRunRow>;
  run(name: string): IRunRow | undefined;
  /** The server's time, in milliseconds since 1970: its clock may differ from the page's. */
  now(): number;
  /** Ask anew now. */
  refresh(): Promise<void>;
}

export const IModel = new Token<IModel>(
  'dstack-jupyter:IModel',
  'All runs, services and machines, kept up to date.'
);

/** The run that is focused in the sidebar; commands without a name act on it. */
export interface IFocus {
  /** The run's name; null while none is focused. */
  name: string | null;
  readonly changed: ISignal<IFocus, void>;
}

export const IFocus = new Token<IFocus>(
  'dstack-jupyter:IFocus',
  'The run that commands act on when they are given no name.'
);

/** The commands, of which most take `{ name: string }`, the run's. */
export namespace CommandIDs {
  export const showSidebar = 'dstack:show-sidebar';
  export const refresh = 'dstack:refresh';
  export const startEngine = 'dstack:start-engine';
  export const openLogs = 'dstack:open-logs';
  /** `{ name, port? }`: the run's port in a new browser tab, through Jupyter's proxy. */
  export const openPort = 'dstack:open-port';
  /** `{ name }`: a service in a new browser tab. */
  export const openService = 'dstack:open-service';
  /** `{ model }`: a chat in the main area. */
  export const tryModel = 'dstack:try-model';
  export const stop = 'dstack:stop';
  export const abort = 'dstack:abort';
  export const copyName = 'dstack:copy-name';
  export const insertAttach = 'dstack:insert-attach';
  /** `{ name }`: the run's own cell, below the active one. */
  export const insertCell = 'dstack:insert-cell';
  /** `{ text }`: any cell, below the active one. */
  export const insertText = 'dstack:insert-text';
  export const rerun = 'dstack:rerun';
  export const deleteRun = 'dstack:delete-run';
  export const newNotebook = 'dstack:new-notebook';
}
