/** The section of machines: by fleet, what each has, what runs on it, and what is to be mended. */
import {
  Clipboard,
  Dialog,
  Notification,
  showDialog
} from '@jupyterlab/apputils';
import {
  addBelowIcon,
  copyIcon,
  deleteIcon,
  refreshIcon
} from '@jupyterlab/ui-components';
import * as React from 'react';

import { fleetCell, fleetTaskCell, NO_HOST } from '../cells';
import { sentenceOf } from '../commands';
import {
  at,
  durationText,
  hourlyText,
  machineText,
  placeText
} from '../format';
import { Fragment, h } from '../jsx';
import { ICheckRow, IMachineRow } from '../records';
import { request } from '../server';
import { fleetsOf } from './fleets';
import { Lesson } from './lesson';
import { IParts } from './parts';
import { ActionButton, Field, InsertButton, Section } from './section';

/** The machines that are there: this computer, those of fleets, rented ones. */
export class MachinesSection extends Section {
  constructor(parts: IParts) {
    const label = parts.trans.__('Fleets and machines');
    super(parts, { name: 'machines', label });
    parts.clock.ticked.connect(this._onTick, this);
  }

  protected told(): unknown[] {
    const { model, preferences } = this.parts;
    return [model.machines, model.isReady, preferences.readOnly];
  }

  protected render() {
    const { parts } = this;
    const { model, trans, commands } = parts;
    if (!model.isReady) {
      return <></>;
    }
    const fleets = fleetsOf(model.machines);
    return (
      <>
        {!model.machines.length && (
          <Lesson
            text={trans.__(
              'No machines. A run finds one by itself; below you see what could be had. A box that you can ssh into is added here:'
            )}
            trans={trans}
            commands={commands}
          />
        )}
        {[...fleets].map(([fleet, rows]) => (
          <Fleet key={fleet} name={fleet} rows={rows} parts={parts} />
        ))}
        <AddMachine parts={parts} fleets={fleets} />
      </>
    );
  }

  private _onTick(): void {
    if (this.isVisible && this.parts.model.machines.some(isLeaving)) {
      this.update();
    }
  }
}

/** Tell whether the machine is given back at a time that is known. */
export function isLeaving(machine: IMachineRow): boolean {
  return machine.idle_until !== null;
}

function Fleet(props: { name: string; rows: IMachineRow[]; parts: IParts }) {
  const { name, rows, parts } = props;
  const { trans, preferences } = parts;
  const label = name ? trans.__('Fleet %1', name) : trans.__('Machines');
  const list = (
    <ul className="jp-dstack-List" aria-label={label}>
      {rows.map(row => (
        <MachineItem key={row.name} row={row} parts={parts} />
      ))}
    </ul>
  );
  if (!name) {
    return list;
  }
  const path = `fleets/${name}`;
  return (
    <>
      <div className="jp-dstack-FleetRow">
        <b className="jp-dstack-Item-name">{name}</b>
        <InsertButton
          parts={parts}
          text={fleetTaskCell(name)}
          label={trans.__('Insert a cell that runs on %1', name)}
          icon={addBelowIcon}
        />
        <CopyButton text={name} label={trans.__('Copy name')} parts={parts} />
        {preferences.readOnly || (
          <>
            <ActionButton
              label={trans.__('Look again at %1', name)}
              icon={refreshIcon}
              onClick={() => send(`${path}/examine`, 'POST', parts)}
            />
            <ActionButton
              label={trans.__('Delete %1', name)}
              icon={deleteIcon}
              onClick={() => letGo(name, path, parts)}
            />
          </>
        )}
      </div>
      {list}
    </>
  );
}

function MachineItem(props: { row: IMachineRow; parts: IParts }) {
  const { row, parts } = props;
  const { trans, preferences } = parts;
  const { fleet, checks } = row;
  const troubles = checks.filter(check => check.fix !== null).length;
  const isKnown = !fleet || row.cpus > 0;
  return (
    <li
      className="jp-dstack-Item jp-dstack-MachineRow"
      data-status={row.status}
      aria-label={row.name}
    >
      <div className="jp-dstack-Item-head">
        <span className="jp-dstack-Sign" aria-hidden="true">
          {row.sign}
        </span>
        <span className="jp-dstack-Item-name" title={row.name}>
          {row.name}
        </span>
        <span className="jp-dstack-Item-word">{row.word}</span>
        {fleet && !preferences.readOnly && (
          <ActionButton
            label={trans.__('Delete %1', row.name)}
            icon={deleteIcon}
            onClick={() =>
              letGo(row.name, `fleets/${fleet}?instance=${row.number}`, parts)
            }
          />
        )}
      </div>
      <Fact text={row.host ?? placeText(row)} />
      {isKnown && <Fact text={machineText(row, trans)} />}
      <Fact text={usesOf(row, parts)} />
      {row.note && <div className="jp-dstack-Item-trouble">{row.note}</div>}
      {checks.length > 0 && (
        <details open={troubles > 0 && !row.runs.length}>
          <summary>
            {troubles
              ? trans.__('%1 checks, %2 to mend', checks.length, troubles)
              : trans._n('%1 check', '%1 checks', checks.length)}
          </summary>
          <ul
            className="jp-dstack-Reasons"
            aria-label={trans.__('Checks of %1', row.name)}
          >
            {checks.map(check => (
              <Check key={check.text} check={check} parts={parts} />
            ))}
          </ul>
        </details>
      )}
    </li>
  );
}

function Fact({ text }: { text: string }) {
  return <div className="jp-dstack-Item-fact">{text}</div>;
}

function Check({ check, parts }: { check: ICheckRow; parts: IParts }) {
  const { mark, text, fix } = check;
  const { trans } = parts;
  return (
    <li>
      {`${mark} ${text}`}
      {fix && (
        <div className="jp-dstack-Item-address">
          <pre className="jp-dstack-Example">{fix}</pre>
          <CopyButton
            text={fix}
            label={trans.__('Copy what mends it')}
            parts={parts}
          />
        </div>
      )}
    </li>
  );
}

function CopyButton(props: { text: string; label: string; parts: IParts }) {
  const { text, label, parts } = props;
  const copy = () => {
    Clipboard.copyToSystem(text);
    Notification.info(parts.trans.__('Copied.'), { autoClose: 2000 });
  };
  return <ActionButton label={label} icon={copyIcon} onClick={copy} />;
}

/** A form that becomes a cell: a machine of somebody's own, and the fleet that it is to be in. */
function AddMachine(props: {
  parts: IParts;
  fleets: ReadonlyMap<string, unknown>;
}) {
  const { parts, fleets } = props;
  const { trans } = parts;
  const [host, setHost] = React.useState(NO_HOST);
  const field = (name: keyof typeof host, label: string, example: string) => (
    <Field
      label={label}
      value={host[name]}
      example={example}
      onChange={value => setHost({ ...host, [name]: value })}
    />
  );
  return (
    <details>
      <summary>{trans.__('Add a machine')}</summary>
      <form
        className="jp-dstack-Form"
        aria-label={trans.__('Machine to add')}
        onSubmit={event => event.preventDefault()}
      >
        {field('hosts', trans.__('Host'), '10.0.0.5')}
        {field('user', trans.__('User'), 'ubuntu')}
        {field('key', trans.__('Private key'), '~/.ssh/id_ed25519')}
        {field('fleet', trans.__('Fleet'), 'lab')}
        <div className="jp-dstack-Form-buttons">
          <InsertButton
            parts={parts}
            text={fleetCell(host, fleets.has(host.fleet.trim()))}
            label={trans.__('Insert a cell that adds it')}
            word={trans.__('Insert a cell')}
          />
        </div>
      </form>
    </details>
  );
}

function usesOf(row: IMachineRow, { model, trans }: IParts): string {
  const left = row.idle_until
    ? (at(row.idle_until) - model.now()) / 1000
    : null;
  return [
    row.fleet ? '' : hourlyText(row.price),
    row.runs.length
      ? trans.__('runs %1', row.runs.join(', '))
      : trans.__('nothing runs on it'),
    row.blocks > 1
      ? trans.__('%1 of %2 blocks', row.blocks_used, row.blocks)
      : '',
    left === null
      ? ''
      : left > 0
        ? trans.__('given back in %1', durationText(left))
        : trans.__('given back now')
  ]
    .filter(Boolean)
    .join(' · ');
}

async function letGo(name: string, path: string, parts: IParts): Promise<void> {
  const { trans } = parts;
  const result = await showDialog({
    title: trans.__('Delete %1?', name),
    body: trans.__('The machine itself stays as it is; runs go there no more.'),
    buttons: [
      Dialog.cancelButton(),
      Dialog.warnButton({ label: trans.__('Delete') })
    ]
  });
  if (result.button.accept) {
    await send(path, 'DELETE', parts);
  }
}

async function send(
  path: string,
  method: string,
  parts: IParts
): Promise<void> {
  const { model, serverSettings, trans } = parts;
  try {
    await request(serverSettings, path, { method });
    await model.refresh();
  } catch (error) {
    Notification.error(sentenceOf(error, trans), { autoClose: 8000 });
  }
}
