/**
 * What can be done with runs: as commands, for buttons, menus, keys and the palette.
 *
 * Given no name, a command acts on the run that is focused in the sidebar.
 */
import { Dialog, Notification, showDialog } from '@jupyterlab/apputils';
import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { TranslationBundle } from '@jupyterlab/translation';
import { CommandRegistry } from '@lumino/commands';
import { ReadonlyPartialJSONObject } from '@lumino/coreutils';

import { attachCell } from './cells';
import { Insertion } from './insertion';
import { Preferences } from './preferences';
import { ICell, IRunRow } from './records';
import { post, Refused, request, troubleOf } from './server';
import { isStoppable, openPorts } from './sidebar/actions';
import { CommandIDs, IFocus, IModel } from './tokens';

type Args = ReadonlyPartialJSONObject;

/** Adds the commands, and does what they say. */
export class Commands {
  constructor(private readonly _options: Commands.IOptions) {
    this._addLooks();
    this._addAddresses();
    this._addCells();
    this._addEnds();
  }

  private _addLooks(): void {
    const { model, trans } = this._options;
    this._add(CommandIDs.refresh, {
      label: trans.__('Refresh the sidebar'),
      execute: () => model.refresh()
    });
    this._add(CommandIDs.startEngine, {
      label: trans.__('Start the engine'),
      isVisible: () => !this._options.preferences.readOnly,
      isEnabled: () => !this._options.preferences.readOnly,
      execute: () => this._send('engine/start')
    });
    this._add(CommandIDs.copyName, {
      label: trans.__('Copy name'),
      isEnabled: args => !!this._nameOf(args),
      execute: args => this._options.insertion.copy(this._nameOf(args)!)
    });
  }

  private _addAddresses(): void {
    const { trans } = this._options;
    this._add(CommandIDs.openPort, {
      label: args => {
        const port = this._portOf(args);
        return port
          ? trans.__('Open port %1', port.port)
          : trans.__('Open its port');
      },
      isVisible: args => !this._run(args) || !!this._portOf(args),
      isEnabled: args => !!this._portOf(args),
      execute: args => this._open(this._portOf(args)!.proxy)
    });
    this._add(CommandIDs.openService, {
      label: trans.__('Open the service'),
      isVisible: args => !this._run(args) || this._isService(args),
      isEnabled: args => this._isService(args),
      execute: args =>
        this._open(
          this._service(args)?.proxy ??
            `dstack-jupyter/services/${this._nameOf(args)}/`
        )
    });
  }

  private _addCells(): void {
    const { insertion, trans } = this._options;
    this._add(CommandIDs.insertAttach, {
      label: trans.__('Insert %dstack attach'),
      isEnabled: args => !!this._run(args),
      execute: args => insertion.insert(attachCell(this._nameOf(args)!))
    });
    this._add(CommandIDs.insertCell, {
      label: trans.__('Insert its cell'),
      isEnabled: args => !!this._run(args),
      execute: async args => {
        const path = `${this._path(args)}/cell`;
        const cell = await request<ICell>(this._options.serverSettings, path);
        await insertion.insert(cell.text);
      }
    });
    this._add(CommandIDs.insertText, {
      label: trans.__('Insert a cell'),
      isVisible: args => typeof args.text === 'string',
      isEnabled: args => typeof args.text === 'string',
      execute: args => insertion.insert(String(args.text))
    });
  }

  private _addEnds(): void {
    const { trans } = this._options;
    const active = (run: IRunRow) => !run.finished;
    this._add(CommandIDs.rerun, {
      ...this._changing(run => run.finished),
      label: trans.__('Run again'),
      execute: args => this._send(`${this._path(args)}/rerun`)
    });
    this._add(CommandIDs.stop, {
      ...this._changing(active, isStoppable),
      label: trans.__('Stop…'),
      execute: args => this._stop(args)
    });
    this._add(CommandIDs.abort, {
      ...this._changing(active),
      label: trans.__('Abort…'),
      execute: args => this._abort(args)
    });
    this._add(CommandIDs.deleteRun, {
      ...this._changing(run => run.finished),
      label: trans.__('Delete…'),
      execute: args => this._delete(args)
    });
  }

  /** Return for which runs a command that changes them is seen, and for which it can be used. */
  private _changing(
    isSeen: (run: IRunRow) => boolean,
    isUsed: (run: IRunRow) => boolean = isSeen
  ): Pick<CommandRegistry.ICommandOptions, 'isVisible' | 'isEnabled'> {
    const { preferences } = this._options;
    const asks = (
      args: Args,
      does: (run: IRunRow) => boolean,
      none: boolean
    ) => {
      const run = this._run(args);
      return !preferences.readOnly && (run ? does(run) : none);
    };
    return {
      isVisible: args => asks(args, isSeen, true),
      isEnabled: args => asks(args, isUsed, false)
    };
  }

  private async _stop(args: Args): Promise<void> {
    const { preferences, trans } = this._options;
    const name = this._nameOf(args)!;
    const isSure =
      !preferences.confirmStop ||
      (await this._ask(
        trans.__('Stop %1?', name),
        trans.__('It gets a while to end by itself; then it is killed.'),
        trans.__('Stop')
      ));
    if (isSure) {
      await this._send(`${this._path(args, name)}/stop`, { abort: false });
    }
  }

  private async _abort(args: Args): Promise<void> {
    const { trans } = this._options;
    const name = this._nameOf(args)!;
    const isSure = await this._ask(
      trans.__('Abort %1?', name),
      trans.__('It is killed at once, and cannot save anything.'),
      trans.__('Abort')
    );
    if (isSure) {
      await this._send(`${this._path(args, name)}/stop`, { abort: true });
    }
  }

  private async _delete(args: Args): Promise<void> {
    const { trans } = this._options;
    const name = this._nameOf(args)!;
    const isSure = await this._ask(
      trans.__('Delete %1?', name),
      trans.__('The run and its logs are forgotten.'),
      trans.__('Delete')
    );
    if (isSure) {
      const init = { method: 'DELETE' };
      const { serverSettings, model } = this._options;
      await request(serverSettings, this._path(args, name), init);
      await model.refresh();
    }
  }

  private async _ask(
    title: string,
    body: string,
    label: string
  ): Promise<boolean> {
    const buttons = [Dialog.cancelButton(), Dialog.warnButton({ label })];
    const result = await showDialog({ title, body, buttons });
    return result.button.accept;
  }

  private async _send(path: string, body: object = {}): Promise<void> {
    const { serverSettings, model } = this._options;
    await post(serverSettings, path, body);
    await model.refresh();
  }

  private _open(proxy: string): void {
    const { baseUrl } = this._options.serverSettings;
    window.open(URLExt.join(baseUrl, proxy), '_blank', 'noopener');
  }

  /** Add a command that says what went wrong, instead of only logging it. */
  private _add(id: string, options: CommandRegistry.ICommandOptions): void {
    const { commands, trans } = this._options;
    const execute = options.execute;
    commands.addCommand(id, {
      describedBy: { args: null },
      ...options,
      execute: async args => {
        try {
          return await execute(args);
        } catch (error) {
          Notification.error(sentenceOf(error, trans), { autoClose: 8000 });
        }
      }
    });
  }

  private _nameOf(args: Args): string | null {
    return typeof args.name === 'string'
      ? args.name
      : (this._options.focus.name ?? null);
  }

  private _run(args: Args): IRunRow | undefined {
    const name = this._nameOf(args);
    return name === null ? undefined : this._options.model.run(name);
  }

  private _service(args: Args) {
    const name = this._nameOf(args);
    return this._options.model.services.find(row => row.name === name);
  }

  private _isService(args: Args): boolean {
    const run = this._run(args);
    return run?.type === 'service' && !run.finished;
  }

  private _portOf(args: Args): IRunRow['ports'][0] | undefined {
    const run = this._run(args);
    return (run ? openPorts(run) : []).find(
      ({ port }) => args.port === undefined || port === args.port
    );
  }

  private _path(args: Args, name = this._nameOf(args)!): string {
    return `runs/${encodeURIComponent(name)}`;
  }
}

/** What `Commands` is made of. */
export namespace Commands {
  /** The options of new commands. */
  export interface IOptions {
    commands: CommandRegistry;
    model: IModel;
    focus: IFocus;
    preferences: Preferences;
    insertion: Insertion;
    serverSettings: ServerConnection.ISettings;
    trans: TranslationBundle;
  }
}

/** Return what went wrong as a person reads it, with what to do. */
export function sentenceOf(error: unknown, trans: TranslationBundle): string {
  const trouble = troubleOf(error);
  switch (trouble.kind) {
    case 'network':
      return trans.__('The Jupyter server is not reached.');
    case 'not-authorised':
      return trans.__('You may not do that on this server.');
    case 'failed':
      return [trouble.message, trouble.hint].filter(Boolean).join('\n');
    default:
      return error instanceof Refused ? error.message : String(error);
  }
}
