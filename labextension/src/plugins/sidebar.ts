import { JupyterFrontEndPlugin } from '@jupyterlab/application';

export const sidebar: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:sidebar',
  autoStart: true,
  activate: () => undefined
};
