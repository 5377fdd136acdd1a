import { JupyterFrontEndPlugin } from '@jupyterlab/application';

export const typing: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:typing',
  autoStart: true,
  activate: () => undefined
};
