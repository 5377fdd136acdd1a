/** The settings that more than one plugin reads, with what they are where none are stored. */
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ISignal, Signal } from '@lumino/signaling';

/** The schema that has them. */
export const SETTINGS = 'dstack-jupyter:sidebar';

/** What an author or an admin chose; `changed` after any of it has. */
export class Preferences {
  /** Read the settings of *registry*; without one, or without the schema, the defaults hold. */
  constructor(registry: ISettingRegistry | null) {
    registry?.load(SETTINGS).then(
      settings => {
        const read = () => this._read(settings);
        settings.changed.connect(read);
        read();
      },
      () => undefined
    );
  }

  /** Seconds between two looks that no event asked for. */
  get refreshInterval(): number {
    return this._refreshInterval;
  }

  /** Whether nothing may be changed from the page. */
  get readOnly(): boolean {
    return this._readOnly;
  }

  /** Whether a stop is asked about first. */
  get confirmStop(): boolean {
    return this._confirmStop;
  }

  /** Emitted after any of the above has changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  private _read(settings: ISettingRegistry.ISettings): void {
    const values = settings.composite;
    const seconds = Number(values['refreshInterval']);
    this._refreshInterval = seconds >= 5 ? Math.min(seconds, 3600) : 60;
    this._readOnly = values['readOnly'] === true;
    this._confirmStop = values['confirmStop'] !== false;
    this._changed.emit();
  }

  private _refreshInterval = 60;
  private _readOnly = false;
  private _confirmStop = true;
  private _changed = new Signal<this, void>(this);
}
