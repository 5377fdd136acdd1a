/** What the shorter sections have in common: drawn by React, anew when the model has changed. */
import { ReactWidget } from '@jupyterlab/ui-components';
import { Message } from '@lumino/messaging';
import { Signal } from '@lumino/signaling';
import * as React from 'react';

import { h } from '../jsx';
import { CommandIDs } from '../tokens';
import { IParts } from './parts';

/** A section whose content is drawn from the model; nothing is drawn while it is hidden. */
export abstract class Section extends ReactWidget {
  constructor(
    protected readonly parts: IParts,
    options: Section.IOptions
  ) {
    super();
    this.addClass('jp-dstack-Section');
    this.id = `dstack-jupyter-${options.name}`;
    this.title.label = options.label;
    parts.model.changed.connect(this._onChanged, this);
    parts.preferences.changed.connect(this._onChanged, this);
  }

  dispose(): void {
    Signal.disconnectReceiver(this);
    super.dispose();
  }

  protected onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    this.update();
  }

  /** Draw again where what is told of the model is other than before. */
  private _onChanged(): void {
    const told = this.told();
    if (told.some((value, index) => value !== this._told[index])) {
      this._told = told;
      // What is hidden is drawn when it is shown.
      if (this.isVisible) {
        this.update();
      }
    }
  }

  /** Return the values of which one must change before it is drawn again. */
  protected abstract told(): unknown[];

  private _told: unknown[] = [];
}

/** What a `Section` is made of. */
export namespace Section {
  /** The options of a new section. */
  export interface IOptions {
    /** For its id. */
    name: string;
    /** What stands in its heading. */
    label: string;
  }
}

/** A button that shows a picture or a word, and says all of its label. */
export function ActionButton(props: {
  label: string;
  onClick: () => void;
  icon?: { react: React.ComponentType<any> };
  text?: string;
}) {
  const { label, onClick, icon: Icon, text } = props;
  return (
    <button
      type="button"
      className={text ? 'jp-dstack-Button jp-mod-styled' : 'jp-dstack-Action'}
      aria-label={label}
      title={label}
      onClick={onClick}
    >
      {Icon && <Icon.react tag="span" className="jp-dstack-Icon" />}
      {text}
    </button>
  );
}

/** A button that puts a cell of *text* into the notebook, where that can be done. */
export function InsertButton(props: {
  parts: IParts;
  text: string;
  label: string;
  word?: string;
  icon?: { react: React.ComponentType<any> };
}) {
  const { commands } = props.parts;
  const insert = () =>
    void commands.execute(CommandIDs.insertText, { text: props.text });
  return commands.hasCommand(CommandIDs.insertText) ? (
    <ActionButton
      label={props.label}
      text={props.word}
      icon={props.icon}
      onClick={insert}
    />
  ) : null;
}

/** One line of a form. */
export function Field(props: {
  label: string;
  value: string;
  example: string;
  onChange: (value: string) => void;
}) {
  return (
    <label className="jp-dstack-Field">
      <span>{props.label}</span>
      <input
        className="jp-dstack-Input"
        type="text"
        value={props.value}
        placeholder={props.example}
        spellCheck={false}
        autoComplete="off"
        maxLength={255}
        onChange={event => props.onChange(event.target.value)}
      />
    </label>
  );
}
