/** Puts a cell below the active one of the notebook that was used last; overwrites nothing. */
import { JupyterFrontEnd } from '@jupyterlab/application';
import {
  Clipboard,
  Dialog,
  Notification,
  showDialog
} from '@jupyterlab/apputils';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import {
  INotebookTracker,
  NotebookActions,
  NotebookPanel
} from '@jupyterlab/notebook';
import { TranslationBundle } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';

import { code, load, notebook } from './notebooks';

/** Where cells go. */
export class Insertion {
  constructor(
    private readonly _app: JupyterFrontEnd,
    private readonly _tracker: INotebookTracker | null,
    private readonly _browser: IDefaultFileBrowser | null,
    private readonly _trans: TranslationBundle
  ) {}

  /** Put a code cell of *text* below the active one; where no notebook is open, ask what to do. */
  async insert(text: string): Promise<void> {
    const panel = this._tracker?.currentWidget;
    if (panel && isWritable(panel)) {
      await this._insertInto(panel, text);
    } else {
      await this._ask(text);
    }
  }

  /** Put *text* on the clipboard, and say so. */
  copy(text: string): void {
    Clipboard.copyToSystem(text);
    Notification.info(this._trans.__('Copied.'), { autoClose: 2000 });
  }

  private async _insertInto(panel: NotebookPanel, text: string): Promise<void> {
    await panel.context.ready;
    await panel.revealed;
    const notebook = panel.content;
    this._app.shell.activateById(panel.id);
    NotebookActions.insertBelow(notebook);
    if (notebook.activeCell?.model.type !== 'code') {
      NotebookActions.changeCellType(notebook, 'code');
    }
    notebook.activeCell?.model.sharedModel.setSource(text.replace(/\n$/, ''));
    notebook.mode = 'edit';
    void notebook.scrollToItem(notebook.activeCellIndex);
  }

  private async _ask(text: string): Promise<void> {
    const trans = this._trans;
    const create = this._app.commands.hasCommand(OPEN);
    const buttons = [
      Dialog.cancelButton(),
      Dialog.okButton({
        label: trans.__('Copy the cell'),
        actions: ['copy']
      })
    ];
    if (create) {
      const label = trans.__('New notebook');
      buttons.push(Dialog.okButton({ label, actions: ['create'] }));
    }
    const body = document.createElement('pre');
    body.className = 'jp-dstack-Example';
    body.textContent = text;
    const result = await showDialog({
      title: trans.__('No notebook is open'),
      body: new Widget({ node: body }),
      buttons
    });
    if (result.button.actions.includes('copy')) {
      this.copy(text);
    } else if (result.button.actions.includes('create')) {
      await this._create(text);
    }
  }

  /** Write a notebook and open it; in Notebook that is a page of its own, out of reach from here. */
  private async _create(text: string): Promise<void> {
    const { contents, kernelspecs } = this._app.serviceManager;
    await kernelspecs.ready;
    const { path } = await contents.newUntitled({
      path: this._browser?.model.path ?? '',
      type: 'notebook'
    });
    const known = kernelspecs.specs;
    const spec = known?.kernelspecs[known.default];
    const first = code('first', text.replace(/\n$/, ''));
    const content = notebook(spec, [load(), first]);
    await contents.save(path, { type: 'notebook', format: 'json', content });
    await this._app.commands.execute(OPEN, { path, factory: 'Notebook' });
  }
}

/** Opens a document, in JupyterLab as in Notebook. */
const OPEN = 'docmanager:open';

function isWritable(panel: NotebookPanel): boolean {
  return !panel.isDisposed && !!panel.model && !panel.model.readOnly;
}
