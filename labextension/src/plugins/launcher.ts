/** A notebook to begin with: in the launcher, the File menu and the command palette. */
import {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { ILauncher } from '@jupyterlab/launcher';
import { KernelSpec, ServiceManager } from '@jupyterlab/services';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

import { dstackIcon } from '../icons';
import { templateNotebook } from '../template';
import { CommandIDs } from '../tokens';

export const launcher: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:launcher',
  description: 'A notebook to begin with.',
  autoStart: true,
  optional: [ILauncher, ICommandPalette, IDefaultFileBrowser, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    launcher: ILauncher | null,
    palette: ICommandPalette | null,
    browser: IDefaultFileBrowser | null,
    translator: ITranslator | null
  ) => {
    const trans = (translator ?? nullTranslator).load('dstack_jupyter');
    const services = app.serviceManager;

    app.commands.addCommand(CommandIDs.newNotebook, {
      label: args =>
        args.isPalette
          ? trans.__('New dstack Notebook')
          : trans.__('dstack Notebook'),
      caption: trans.__('A notebook with a task and a service to begin with'),
      icon: args => (args.isPalette ? undefined : dstackIcon),
      execute: async args => {
        const folder = (args.cwd as string) || browser?.model.path || '';
        const spec = await pythonKernel(services);
        const made = await services.contents.newUntitled({
          path: folder,
          type: 'notebook'
        });
        await services.contents.save(made.path, {
          type: 'notebook',
          format: 'json',
          content: templateNotebook(trans, spec)
        });
        const opened = await app.commands.execute('docmanager:open', {
          path: made.path,
          factory: 'Notebook'
        });
        if (opened) {
          opened.isUntitled = true; // so that saving it asks for a name
        }
        return opened;
      }
    });

    launcher?.add({
      command: CommandIDs.newNotebook,
      category: trans.__('Other'),
      rank: 3
    });
    palette?.addItem({
      command: CommandIDs.newNotebook,
      category: trans.__('dstack'),
      args: { isPalette: true }
    });
  }
};

/** Return the server's default kernel if it speaks Python, else the first that does. */
async function pythonKernel(
  services: ServiceManager.IManager
): Promise<KernelSpec.ISpecModel | null> {
  await services.kernelspecs.ready;
  const known = services.kernelspecs.specs;
  const specs = Object.values(known?.kernelspecs ?? {});
  const python = specs.filter(spec => spec?.language === 'python');
  return (
    python.find(spec => spec?.name === known?.default) ?? python[0] ?? null
  );
}
