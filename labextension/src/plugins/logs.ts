import { JupyterFrontEndPlugin } from '@jupyterlab/application';

export const logs: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:logs',
  autoStart: true,
  activate: () => undefined
};
