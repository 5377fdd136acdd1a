/** The texts of cells that the sidebar puts into a notebook. Pure. */
import { IOfferRow } from './records';

/** What somebody asks of a machine, in the words of a configuration; empty for no matter. */
export interface IWanted {
  gpu: string;
  cpu: string;
  memory: string;
  /** USD per hour at most. */
  maxPrice: string;
}

/** Nothing in particular. */
export const ANYTHING: IWanted = { gpu: '', cpu: '', memory: '', maxPrice: '' };

/** The first task that somebody starts. */
export const FIRST_TASK = `%%dstack task
commands:
  - echo "Hello from $DSTACK_RUN_NAME"
  - sleep 30
`;

/** The first service that somebody starts. */
export const FIRST_SERVICE = `%%dstack service
commands:
  - python3 -m http.server $DSTACK_SERVICE_PORT
port: 8000
auth: false
`;

/** Return a line that shows a run live. */
export function attachCell(name: string): string {
  return `%dstack attach ${name}`;
}

/** Return a task that asks for what is *wanted*, or for that very *offer*. */
export function taskCell(wanted: IWanted, offer?: IOfferRow): string {
  const resources = [
    ['gpu', wanted.gpu],
    ['cpu', wanted.cpu],
    ['memory', wanted.memory]
  ].filter(([, value]) => value.trim());
  const lines = ['%%dstack task', 'commands:'];
  lines.push(wanted.gpu.trim() ? '  - nvidia-smi' : '  - echo "Hello"');
  if (resources.length) {
    lines.push('resources:');
    resources.forEach(([key, value]) =>
      lines.push(`  ${key}: ${scalar(value)}`)
    );
  }
  if (wanted.maxPrice.trim()) {
    lines.push(`max_price: ${scalar(wanted.maxPrice)}`);
  }
  if (offer) {
    lines.push(`backends: [${scalar(offer.backend)}]`);
    if (offer.region && offer.region !== offer.backend) {
      lines.push(`regions: [${scalar(offer.region)}]`);
    }
    if (offer.instance_type) {
      lines.push(`instance_types: [${scalar(offer.instance_type)}]`);
    }
    if (offer.spot) {
      lines.push('spot_policy: spot');
    }
  }
  return lines.join('\n') + '\n';
}

/** A machine that is reached by SSH, in the words of a form; several hosts are set apart by blanks. */
export const NO_HOST = { hosts: '', user: '', key: '', fleet: '' };

/** Return a cell that adds *host* to its fleet: to one that is there, or to a new one. */
export function fleetCell(host: typeof NO_HOST, isThere: boolean): string {
  const [user, key] = [host.user.trim(), host.key.trim()];
  const hosts = host.hosts.split(/[\s,]+/).filter(Boolean);
  if (isThere) {
    const options = key ? ` -i ${word(key)}` : '';
    return hosts
      .map(one => word(user ? `${user}@${one}` : one))
      .map(
        one =>
          `%dstack pool add-ssh ${one}${options} --fleet ${word(host.fleet)}\n`
      )
      .join('');
  }
  const lines = [
    '%%dstack fleet',
    `name: ${scalar(host.fleet || 'lab')}`,
    'ssh_config:'
  ];
  if (user) {
    lines.push(`  user: ${scalar(user)}`);
  }
  if (key) {
    lines.push(`  identity_file: ${scalar(key)}`);
  }
  lines.push('  hosts:', ...hosts.map(one => `    - ${scalar(one)}`));
  return lines.join('\n') + '\n';
}

/** Return a task that runs on machines of *fleet* alone. */
export function fleetTaskCell(fleet: string): string {
  return `${taskCell(ANYTHING)}fleets: [${scalar(fleet)}]\n`;
}

/** Return *value* as a word of a command line. */
function word(value: string): string {
  const text = value.trim();
  return /^[\w@%+=:,./~-]+$/.test(text)
    ? text
    : `'${text.replace(/'/g, `'"'"'`)}'`;
}

/** Return *value* as YAML reads it back: plain where that is safe, else in quotes. */
function scalar(value: string): string {
  const text = value.trim();
  return /^[A-Za-z0-9]([\w.:/-]*[\w./-])?$/.test(text)
    ? text
    : JSON.stringify(text);
}
