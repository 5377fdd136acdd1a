/** Where panels go: the main area, or what a notebook's own page has instead. */
import { ILabShell, JupyterFrontEnd } from '@jupyterlab/application';
import { Widget } from '@lumino/widgets';

/** Put *panel* in the main area unless it is somewhere already, and bring it to the front. */
export function addToMain(
  shell: JupyterFrontEnd.IShell,
  labShell: ILabShell | null,
  panel: Widget
): void {
  if (!panel.isAttached) {
    shell.add(panel, 'main');
  }
  if (!panel.isAttached && !labShell) {
    // Notebook 7 keeps its main area for the one document of its page; Lab may only wait.
    shell.add(panel, 'down');
  }
  shell.activateById(panel.id);
}
