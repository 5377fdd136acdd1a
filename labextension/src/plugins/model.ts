/** The model of all that runs, which the other plugins share. */
import {
  JupyterFrontEnd,
  JupyterFrontEndPlugin,
  JupyterLab
} from '@jupyterlab/application';
import { ISettingRegistry } from '@jupyterlab/settingregistry';

import { Model } from '../model';
import { Preferences } from '../preferences';
import { IModel } from '../tokens';

export const model: JupyterFrontEndPlugin<IModel> = {
  id: 'dstack-jupyter:model',
  description: 'Keeps all runs, services and machines up to date.',
  autoStart: true,
  provides: IModel,
  optional: [ISettingRegistry, JupyterLab.IInfo],
  activate: (
    app: JupyterFrontEnd,
    registry: ISettingRegistry | null,
    info: JupyterLab.IInfo | null
  ): IModel => {
    const { serverSettings, events } = app.serviceManager;
    const preferences = new Preferences(registry);
    const kept = new Model({
      serverSettings,
      events: events.stream,
      refreshInterval: preferences.refreshInterval,
      isConnected: () => info?.isConnected ?? true
    });
    preferences.changed.connect(() =>
      kept.setInterval(preferences.refreshInterval)
    );
    app.serviceManager.connectionFailure.connect(() => kept.lose());
    const look = () => {
      if (document.visibilityState === 'visible') {
        void kept.refresh();
      }
    };
    document.addEventListener('visibilitychange', look);
    window.addEventListener('online', look);
    return kept;
  }
};
