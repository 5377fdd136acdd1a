import { JupyterFrontEndPlugin } from '@jupyterlab/application';

export const chat: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:chat',
  autoStart: true,
  activate: () => undefined
};
