/** What every section of the sidebar is given. */
import { ServerConnection } from '@jupyterlab/services';
import { TranslationBundle } from '@jupyterlab/translation';
import { CommandRegistry } from '@lumino/commands';

import { Preferences } from '../preferences';
import { IFocus, IModel } from '../tokens';
import { Clock } from './clock';
import { Memory } from './memory';

/** The parts that sections share. */
export interface IParts {
  model: IModel;
  commands: CommandRegistry;
  preferences: Preferences;
  serverSettings: ServerConnection.ISettings;
  memory: Memory;
  clock: Clock;
  /** The focused run, for commands; null where there are none. */
  focus: IFocus | null;
  trans: TranslationBundle;
}
