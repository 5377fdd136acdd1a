import { JupyterFrontEndPlugin } from '@jupyterlab/application';

export const commands: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:commands',
  autoStart: true,
  activate: () => undefined
};
