/** How a model is to answer: its instructions, temperature and length, behind a disclosure. */
import { TranslationBundle } from '@jupyterlab/translation';
import { useId, useState } from 'react';

import { Fragment, h } from '../jsx';
import { Conversation } from './conversation';

/** The options of one conversation; they hold from the next question on. */
export function Options(props: {
  conversation: Conversation;
  trans: TranslationBundle;
}): JSX.Element {
  const { conversation, trans } = props;
  const { choices } = conversation;
  const id = useId();
  const [system, setSystem] = useState(choices.system);
  return (
    <details className="jp-dstack-ChatPanel-options">
      <summary>{trans.__('Options')}</summary>
      <div className="jp-dstack-ChatPanel-fields">
        <label htmlFor={`${id}-system`}>{trans.__('Instructions')}</label>
        <textarea
          id={`${id}-system`}
          rows={2}
          value={system}
          placeholder={trans.__('You are a helpful assistant.')}
          title={trans.__(
            'The system message, which goes before the conversation'
          )}
          onChange={event => {
            setSystem(event.target.value);
            choices.system = event.target.value;
          }}
        />
        <NumberField
          id={`${id}-temperature`}
          label={trans.__('Temperature')}
          hint={trans.__("the model's own")}
          first={choices.temperature}
          least={0}
          most={2}
          step={0.1}
          onChange={value => {
            choices.temperature = value;
          }}
        />
        <NumberField
          id={`${id}-tokens`}
          label={trans.__('Max tokens')}
          hint={trans.__("the model's own")}
          first={choices.maxTokens}
          least={1}
          most={1_000_000}
          step={1}
          onChange={value => {
            choices.maxTokens = value === null ? null : Math.round(value);
          }}
        />
      </div>
    </details>
  );
}

function NumberField(props: {
  id: string;
  label: string;
  hint: string;
  first: number | null;
  least: number;
  most: number;
  step: number;
  onChange: (value: number | null) => void;
}): JSX.Element {
  const { least, most } = props;
  const [text, setText] = useState(
    props.first === null ? '' : String(props.first)
  );
  const value = text.trim() === '' ? null : Number(text);
  const isGood = value === null || (value >= least && value <= most);
  return (
    <>
      <label htmlFor={props.id}>{props.label}</label>
      <input
        id={props.id}
        type="number"
        min={least}
        max={most}
        step={props.step}
        placeholder={props.hint}
        aria-invalid={!isGood}
        value={text}
        onChange={event => {
          const entered = event.target.value;
          const given = entered.trim() === '' ? null : Number(entered);
          setText(entered);
          if (given === null || (given >= least && given <= most)) {
            props.onChange(given);
          }
        }}
      />
    </>
  );
}
