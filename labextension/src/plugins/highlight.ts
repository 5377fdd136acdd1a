import { JupyterFrontEndPlugin } from '@jupyterlab/application';

export const highlight: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:highlight',
  autoStart: true,
  activate: () => undefined
};
