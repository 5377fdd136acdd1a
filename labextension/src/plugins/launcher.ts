import { JupyterFrontEndPlugin } from '@jupyterlab/application';

export const launcher: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:launcher',
  autoStart: true,
  activate: () => undefined
};
