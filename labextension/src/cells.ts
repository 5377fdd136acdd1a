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

/** Return *value* as YAML reads it back: plain where that is safe, else in quotes. */
function scalar(value: string): string {
  const text = value.trim();
  return /^[A-Za-z0-9]([\w.:/-]*[\w./-])?$/.test(text)
    ? text
    : JSON.stringify(text);
}
