/** Says once, kindly, that the page and the server are of different versions. */
import {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils';
import { IStateDB } from '@jupyterlab/statedb';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

import packageJson from '../../package.json';
import { IVersion } from '../records';
import { request } from '../server';
import { IModel } from '../tokens';
import { mismatch } from '../versions';

/** Where the pair is kept that was told last. */
const TOLD = 'dstack-jupyter:versions-told';

export const handshake: JupyterFrontEndPlugin<void> = {
  id: 'dstack-jupyter:handshake',
  description: 'Compares the versions of the page and the server.',
  autoStart: true,
  optional: [IStateDB, IModel, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    state: IStateDB | null,
    model: IModel | null,
    translator: ITranslator | null
  ) => {
    const trans = (translator ?? nullTranslator).load('dstack_jupyter');
    const settings = app.serviceManager.serverSettings;

    const compare = async () => {
      const page = packageJson.version;
      const server = (await request<IVersion>(settings, 'version')).version;
      const notice = mismatch(page, server, trans);
      const pair = `${page} ${server}`;
      if (notice === null || (await state?.fetch(TOLD)) === pair) {
        return;
      }
      await state?.save(TOLD, pair);
      Notification.warning(notice, { autoClose: false });
    };
    // A server that does not answer is the sidebar's to speak of.
    const look = () => void compare().catch(() => undefined);

    void app.restored.then(look);
    let away = false;
    model?.changed.connect(() => {
      // After it was away it may have come back as another version.
      const gone = model.trouble.kind === 'network';
      if (away && !gone) {
        look();
      }
      away = gone;
    });
  }
};
