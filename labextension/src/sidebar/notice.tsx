/** What stands above the sections while the page knows nothing newer: why, and what to do. */
import { ReactWidget } from '@jupyterlab/ui-components';

import { Fragment, h } from '../jsx';
import { CommandIDs, Trouble } from '../tokens';
import { IParts } from './parts';

/** The commands that make the server know us. */
const INSTALL = 'pip install dstack-jupyter';
const ENABLE = 'jupyter server extension enable dstack_jupyter';

/** Tells the model's trouble; empty where there is none. */
export class Notice extends ReactWidget {
  constructor(private readonly _parts: IParts) {
    super();
    this.addClass('jp-dstack-Notice');
    this.node.setAttribute('role', 'status');
    this._told = _parts.model.trouble;
    _parts.model.changed.connect(this._onChanged, this);
    _parts.preferences.changed.connect(this.update, this);
  }

  dispose(): void {
    this._parts.model.changed.disconnect(this._onChanged, this);
    this._parts.preferences.changed.disconnect(this.update, this);
    super.dispose();
  }

  protected render() {
    const trouble = this._told;
    this.node.dataset.trouble = trouble.kind;
    if (trouble.kind === 'none') {
      return <></>;
    }
    const { trans } = this._parts;
    switch (trouble.kind) {
      case 'engine-down':
        return (
          <>
            <p>
              <b>{trans.__('The engine is not running.')}</b>{' '}
              {trans.__(
                'It starts machines and runs, and watches over them. A cell that needs it starts it too.'
              )}
            </p>
            {this._parts.preferences.readOnly ||
              this._button(
                trans.__('Start the engine'),
                CommandIDs.startEngine,
                trans.__('Starting…')
              )}
          </>
        );
      case 'not-installed':
        return (
          <>
            <p>
              <b>{trans.__('The Jupyter server does not know dstack.')}</b>{' '}
              {trans.__(
                'In the environment that the server runs in, do this and restart the server:'
              )}
            </p>
            <pre className="jp-dstack-Example">{`${INSTALL}\n${ENABLE}`}</pre>
            {this._again()}
          </>
        );
      case 'not-authorised':
        return (
          <>
            <p>
              <b>{trans.__('You may not see runs on this server.')}</b>{' '}
              {trans.__(
                'Your login may have ended: reload the page. Else ask whoever runs this server for the right to “dstack”.'
              )}
            </p>
            {this._again()}
          </>
        );
      case 'network':
        return (
          <>
            <p>
              <b>{trans.__('The Jupyter server is not reached.')}</b>{' '}
              {trans.__(
                'What is listed may be old. It is tried again and again; runs go on meanwhile.'
              )}
            </p>
            {this._again()}
          </>
        );
      case 'failed':
        return (
          <>
            <p>
              <b>{trouble.message}</b> {trouble.hint}
            </p>
            {this._again()}
          </>
        );
    }
  }

  private _again() {
    const label = this._parts.trans.__('Try again');
    return this._button(label, CommandIDs.refresh, label);
  }

  private _button(label: string, command: string, doing: string) {
    const { commands } = this._parts;
    const press = async () => {
      this._isBusy = true;
      this.update();
      try {
        await commands.execute(command);
      } finally {
        this._isBusy = false;
        this.update();
      }
    };
    return commands.hasCommand(command) ? (
      <button
        type="button"
        className="jp-dstack-Button jp-mod-styled jp-mod-accept"
        aria-disabled={this._isBusy}
        onClick={() => this._isBusy || void press()}
      >
        {this._isBusy ? doing : label}
      </button>
    ) : null;
  }

  private _onChanged(): void {
    const { trouble } = this._parts.model;
    if (trouble !== this._told) {
      this._told = trouble;
      this.update();
    }
  }

  private _told: Trouble;
  private _isBusy = false;
}
