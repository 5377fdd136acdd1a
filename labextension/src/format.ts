/**
 * Durations, money, sizes and words as people read them. Pure; called by all that shows a run.
 *
 * The words are those of a cell's card, so that the cell and the sidebar say the same.
 */
import { IMachineRow, IOfferRow, IRunRow, IServiceRow, Time } from './records';

/** Translate a text with `%1`, `%2`… in it; the identity where nothing is translated. */
export interface ITranslate {
  __(text: string, ...values: any[]): string;
  _n(one: string, many: string, count: number, ...values: any[]): string;
}

const UNITS: readonly [string, number, string, number][] = [
  ['d', 86_400, 'h', 3_600],
  ['h', 3_600, 'm', 60],
  ['m', 60, 's', 1]
];

const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: '2-digit',
  minute: '2-digit'
});
const DAY = new Intl.DateTimeFormat(undefined, {
  month: 'short',
  day: 'numeric'
});

/** A sign for each status, so that it is told by shape as well as by word and colour. */
const SIGNS: Record<IRunRow['status'], string> = {
  pending: '↻',
  submitted: '○',
  provisioning: '◔',
  running: '▶',
  terminating: '◌',
  terminated: '■',
  failed: '✕',
  done: '✓'
};

/** Return seconds in their two largest units: `3m 12s`, `2d 4h`. */
export function durationText(seconds: number): string {
  const whole = Math.max(Math.floor(seconds) || 0, 0);
  for (const [unit, size, nextUnit, nextSize] of UNITS) {
    if (whole >= size) {
      const rest = Math.floor((whole % size) / nextSize);
      const first = `${Math.floor(whole / size)}${unit}`;
      return rest ? `${first} ${rest}${nextUnit}` : first;
    }
  }
  return `${whole}s`;
}

/** Return an amount in USD: `$0`, `$3.10`, and two significant digits below a cent. */
export function moneyText(dollars: number): string {
  if (!dollars) {
    return '$0';
  }
  if (Math.abs(dollars) < 0.01) {
    return Math.abs(dollars) < 0.0001
      ? '<$0.0001'
      : `$${Number(dollars.toPrecision(2))}`;
  }
  const [whole, cents] = dollars.toFixed(2).split('.');
  return `$${whole.replace(/\B(?=(\d{3})+$)/g, ',')}.${cents}`;
}

/** Return a price in USD per hour: `$0`, `$3.10/h`. */
export function hourlyText(dollars: number): string {
  return dollars ? `${moneyText(dollars)}/h` : '$0';
}

/** Return a size given in GB: `512MB`, `8GB`, `1.5TB` (1 TB = 1024 GB). */
export function sizeText(gigabytes: number): string {
  if (gigabytes >= 1024) {
    return `${oneDecimal(gigabytes / 1024)}TB`;
  }
  if (gigabytes > 0 && gigabytes < 1) {
    return `${Math.round(gigabytes * 1024)}MB`;
  }
  return `${oneDecimal(gigabytes)}GB`;
}

/** Return a short time with two or three digits: `0.8 ms`, `14 ms`, `2.3 s`, `45 s`. */
export function secondsText(seconds: number): string {
  if (seconds < 0.001) {
    return `${(seconds * 1000).toFixed(1)} ms`;
  }
  if (seconds < 1) {
    return `${(seconds * 1000).toFixed(0)} ms`;
  }
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

/** Return a rate per second with the digits that matter: `0`, `0.3`, `12`. */
export function rateText(perSecond: number): string {
  return perSecond >= 10 ? perSecond.toFixed(0) : oneDecimal(perSecond);
}

/** Return a whole number with its thousands set apart: `5,000`. */
export function countText(count: number): string {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ',');
}

/** Return the sign of a run's status. */
export function signOf(run: { status: IRunRow['status'] }): string {
  return SIGNS[run.status] ?? '○';
}

/** Return the word for a run's status, as its card has it. */
export function statusWord(
  run: { status: IRunRow['status'] },
  trans: ITranslate
): string {
  switch (run.status) {
    case 'pending':
      return trans.__('waiting to retry');
    case 'submitted':
      return trans.__('submitted');
    case 'provisioning':
      return trans.__('provisioning');
    case 'running':
      return trans.__('running');
    case 'terminating':
      return trans.__('stopping');
    case 'terminated':
      return trans.__('terminated');
    case 'failed':
      return trans.__('failed');
    case 'done':
      return trans.__('done');
    default:
      return String(run.status);
  }
}

/** Return how long a run has gone on at *now* (ms), from its submission to its end. */
export function elapsedText(run: IRunRow, now: number): string {
  const end = run.finished && run.finished_at ? at(run.finished_at) : now;
  return durationText((end - at(run.submitted_at)) / 1000);
}

/** Return what a run has cost at *now* (ms), in USD. */
export function costAt(run: IRunRow, now: number): number {
  if (run.finished || !run.price) {
    return run.cost;
  }
  return run.cost + (run.price * Math.max(now - at(run.as_of), 0)) / 3_600_000;
}

/** Return when *time* was, in the reader's own zone: `14:03` today, `Nov 20` before. */
export function whenText(time: Time, now: number): string {
  const then = new Date(at(time));
  const isToday = then.toDateString() === new Date(now).toDateString();
  return (isToday ? CLOCK : DAY).format(then);
}

/** Return how many runs go on and what they cost an hour: `2 running · $3.10/h`. */
export function totalsText(runs: Iterable<IRunRow>, trans: ITranslate): string {
  let running = 0;
  let waiting = 0;
  let price = 0;
  for (const run of runs) {
    if (!run.finished) {
      running += run.status === 'running' ? 1 : 0;
      waiting += run.status === 'running' ? 0 : 1;
      price += run.price;
    }
  }
  const parts = [trans.__('%1 running', countText(running))];
  if (waiting) {
    parts.push(trans.__('%1 on the way', countText(waiting)));
  }
  if (price) {
    parts.push(hourlyText(price));
  }
  return parts.join(' · ');
}

/** Return why a run waits or ended; empty where there is nothing to say. */
export function noteOf(run: IRunRow): string {
  if (run.waiting && !run.finished) {
    return run.waiting;
  }
  if (run.finished && run.status !== 'done' && run.reason) {
    return run.detail ? `${run.reason} (${run.detail})` : run.reason;
  }
  return '';
}

/** Return the same where there is little room: of a failure its facts alone. */
export function shortNoteOf(run: IRunRow): string {
  const note = noteOf(run);
  return run.finished && note && run.detail ? run.detail : note;
}

/** Return what a machine has: `2xCPU, 8GB, 1xH200 (141GB)`; GPUs as the engine names them. */
export function machineText(machine: IMachineRow, trans: ITranslate): string {
  const parts = [`${machine.cpus}xCPU`, sizeText(machine.memory_gb)];
  const counts = new Map<string, number>();
  for (const gpu of machine.gpus) {
    counts.set(gpu, (counts.get(gpu) ?? 0) + 1);
  }
  counts.forEach((count, gpu) => parts.push(`${count}x${gpu}`));
  if (machine.disk_gb !== null) {
    parts.push(trans.__('%1 (disk)', sizeText(machine.disk_gb)));
  }
  return parts.join(', ');
}

/** Return where something is; this computer's region and type only repeat its backend's name. */
export function placeText(
  place: Pick<IOfferRow, 'backend' | 'region' | 'instance_type'>
): string {
  const words = [place.region, place.instance_type].filter(
    word => word && word !== place.backend
  );
  return [place.backend, ...words].join(' ');
}

/** Return how a service answers: `2/2 ready · 3.2 requests/s · 4 in flight · p50 120 ms`. */
export function trafficText(service: IServiceRow, trans: ITranslate): string {
  const parts = [trans.__('%1/%2 ready', service.ready, service.desired)];
  parts.push(trans.__('%1 requests/s', rateText(service.rps)));
  parts.push(trans.__('%1 in flight', countText(service.in_flight)));
  if (service.held) {
    parts.push(trans.__('%1 held', countText(service.held)));
  }
  if (service.p50 !== null) {
    parts.push(trans.__('p50 %1', secondsText(service.p50)));
  }
  return parts.join(' · ');
}

/** Return *time* in milliseconds since 1970. */
export function at(time: Time): number {
  return Date.parse(time);
}

function oneDecimal(value: number): string {
  return value.toFixed(1).replace(/\.0$/, '');
}
