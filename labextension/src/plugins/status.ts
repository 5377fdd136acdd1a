import { JupyterFrontEndPlugin } from '@jupyterlab/application';

export const status: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:status',
  autoStart: true,
  activate: () => undefined
};
