import { JupyterFrontEndPlugin } from '@jupyterlab/application';

export const model: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:model',
  autoStart: true,
  activate: () => undefined
};
