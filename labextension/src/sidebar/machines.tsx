/** The section of machines: what each has, what runs on it, when it is given back. */
import * as React from 'react';

import {
  at,
  durationText,
  hourlyText,
  ITranslate,
  machineText,
  placeText
} from '../format';
import { IMachineRow } from '../records';
import { Lesson } from './lesson';
import { IParts } from './parts';
import { Section } from './section';

/** A sign for each status, so that it is told by shape as well. */
const SIGNS: Record<IMachineRow['status'], string> = {
  pending: '○',
  provisioning: '◔',
  idle: '◇',
  busy: '◆',
  terminating: '◌',
  terminated: '■'
};

/** The machines that are there, rented or one's own. */
export class MachinesSection extends Section {
  constructor(parts: IParts) {
    const label = parts.trans.__('Machines');
    super(parts, { name: 'machines', label });
    parts.clock.ticked.connect(this._onTick, this);
  }

  protected told(): unknown[] {
    const { model } = this.parts;
    return [model.machines, model.isReady];
  }

  protected render() {
    const { model, trans, commands } = this.parts;
    if (!model.machines.length) {
      return model.isReady ? (
        <Lesson
          text={trans.__(
            'No machines. A run finds or rents one by itself, and gives it back when it was idle for long enough. Below you see what could be had.'
          )}
          trans={trans}
          commands={commands}
        />
      ) : (
        <></>
      );
    }
    const now = model.now();
    return (
      <ul className="jp-dstack-List" aria-label={trans.__('Machines')}>
        {model.machines.map(row => (
          <MachineItem key={row.name} row={row} now={now} trans={trans} />
        ))}
      </ul>
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

function MachineItem(props: {
  row: IMachineRow;
  now: number;
  trans: ITranslate;
}) {
  const { row, now, trans } = props;
  const left = row.idle_until ? (at(row.idle_until) - now) / 1000 : null;
  return (
    <li
      className="jp-dstack-Item jp-dstack-MachineRow"
      data-status={row.status}
      aria-label={row.name}
    >
      <div className="jp-dstack-Item-head">
        <span className="jp-dstack-Sign" aria-hidden="true">
          {SIGNS[row.status] ?? '○'}
        </span>
        <span className="jp-dstack-Item-name" title={row.name}>
          {row.name}
        </span>
        <span className="jp-dstack-Item-word">{wordOf(row.status, trans)}</span>
      </div>
      <div className="jp-dstack-Item-fact">
        {`${placeText(row)} · ${machineText(row, trans)}`}
      </div>
      <div className="jp-dstack-Item-fact">
        {[
          hourlyText(row.price),
          row.runs.length
            ? trans.__('runs %1', row.runs.join(', '))
            : trans.__('nothing runs on it'),
          left === null
            ? ''
            : left > 0
              ? trans.__('given back in %1', durationText(left))
              : trans.__('given back now')
        ]
          .filter(Boolean)
          .join(' · ')}
      </div>
    </li>
  );
}

function wordOf(status: IMachineRow['status'], trans: ITranslate): string {
  switch (status) {
    case 'pending':
      return trans.__('pending');
    case 'provisioning':
      return trans.__('provisioning');
    case 'idle':
      return trans.__('idle');
    case 'busy':
      return trans.__('busy');
    case 'terminating':
      return trans.__('being given back');
    case 'terminated':
      return trans.__('given back');
    default:
      return String(status);
  }
}
