/** The plugins of dstack-jupyter; each can be disabled by its own name. */
import { JupyterFrontEndPlugin } from '@jupyterlab/application';

import { chat } from './plugins/chat';
import { commands } from './plugins/commands';
import { handshake } from './plugins/handshake';
import { highlight } from './plugins/highlight';
import { launcher } from './plugins/launcher';
import { logs } from './plugins/logs';
import { model } from './plugins/model';
import { notifications } from './plugins/notifications';
import { sidebar } from './plugins/sidebar';
import { status } from './plugins/status';
import { typing } from './plugins/typing';

const plugins: JupyterFrontEndPlugin<any>[] = [
  model,
  commands,
  sidebar,
  logs,
  chat,
  status,
  notifications,
  launcher,
  handshake,
  highlight,
  typing
];

export default plugins;
