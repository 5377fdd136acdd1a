import { JupyterFrontEndPlugin } from '@jupyterlab/application';

export const notifications: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:notifications',
  autoStart: true,
  activate: () => undefined
};
