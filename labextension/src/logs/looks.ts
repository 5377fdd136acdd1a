/** How pieces of a job's output look: the colours and weights that a terminal would give them. */

/** A member of the 256-colour palette, or `#rrggbb`. */
export type Colour = number | string;

/** A style; the same object for the same style, so that styles are compared by identity. */
export interface ILook {
  /** Empty for plain text. */
  readonly key: string;
  readonly front?: Colour;
  readonly back?: Colour;
  readonly bold?: boolean;
  readonly dim?: boolean;
  readonly italic?: boolean;
  readonly underline?: boolean;
  readonly strike?: boolean;
  readonly inverse?: boolean;
}

type Given = Omit<ILook, 'key'>;
type Switch = Exclude<keyof Given, 'front' | 'back'>;

/** Text as it is. */
export const PLAIN: ILook = Object.freeze({ key: '' });

const SWITCH_ON: { [code: number]: Switch } = {
  1: 'bold',
  2: 'dim',
  3: 'italic',
  4: 'underline',
  7: 'inverse',
  9: 'strike'
};
const SWITCH_OFF: { [code: number]: Switch[] } = {
  21: ['bold'],
  22: ['bold', 'dim'],
  23: ['italic'],
  24: ['underline'],
  27: ['inverse'],
  29: ['strike']
};
/** How many styles are remembered; a job uses a few, and one that invents more costs no memory. */
const MAX_LOOKS = 5_000;
const MAX_STEPS = 1_000;
const MAX_PARAMETERS = 256;

const looks = new Map<string, ILook>();
const steps = new Map<string, ILook>();

/** Return the one look that has what is *given*. */
export function look(given: Given): ILook {
  const properties = Object.entries(given).filter(
    ([name, value]) => name !== 'key' && value !== undefined && value !== false
  );
  if (!properties.length) {
    return PLAIN;
  }
  const key = JSON.stringify(properties.sort());
  let found = looks.get(key);
  if (!found) {
    if (looks.size >= MAX_LOOKS) {
      looks.clear();
    }
    found = Object.freeze({ ...Object.fromEntries(properties), key });
    looks.set(key, found);
  }
  return found;
}

/** Return the look after the sequence `ESC [ parameters m`. */
export function styled(before: ILook, parameters: string): ILook {
  const key = `${before.key}|${parameters}`;
  let after = steps.get(key);
  if (!after) {
    if (steps.size >= MAX_STEPS) {
      steps.clear();
    }
    after = stepped(before, parameters);
    steps.set(key, after);
  }
  return after;
}

/** Return the CSS of a colour; the first sixteen follow the page's theme. */
export function colourOf(colour: Colour): string {
  if (typeof colour === 'string') {
    return colour;
  }
  if (colour < 16) {
    return `var(--jp-dstack-ansi-${colour})`;
  }
  if (colour >= 232) {
    const grey = 8 + (colour - 232) * 10;
    return `rgb(${grey},${grey},${grey})`;
  }
  const at = colour - 16;
  const side = (steps: number) =>
    steps % 6 === 0 ? 0 : 55 + Math.floor(steps % 6) * 40;
  return `rgb(${side(Math.floor(at / 36))},${side(Math.floor(at / 6))},${side(at)})`;
}

function stepped(before: ILook, parameters: string): ILook {
  const codes = parameters
    .slice(0, MAX_PARAMETERS)
    .split(/[;:]/)
    .map(word => (/^\d{1,5}$/.test(word) ? Number(word) : 0));
  let now = before;
  while (codes.length) {
    const code = codes.shift() as number;
    if (code === 0) {
      now = PLAIN;
    } else if (SWITCH_ON[code]) {
      now = look({ ...now, [SWITCH_ON[code]]: true });
    } else if (SWITCH_OFF[code]) {
      const off = SWITCH_OFF[code].map(name => [name, false]);
      now = look({ ...now, ...Object.fromEntries(off) });
    } else if (code === 38 || code === 48) {
      const colour = longColour(codes);
      if (colour !== undefined) {
        now = look({ ...now, [code === 38 ? 'front' : 'back']: colour });
      }
    } else {
      now = shortColour(now, code);
    }
  }
  return now;
}

function shortColour(before: ILook, code: number): ILook {
  const unit = code % 10;
  const tens = (code - unit) / 10;
  if (![3, 4, 9, 10].includes(tens)) {
    return before;
  }
  const side = tens === 3 || tens === 9 ? 'front' : 'back';
  if (unit === 9 && tens < 5) {
    return look({ ...before, [side]: undefined });
  }
  if (unit > 7) {
    return before;
  }
  return look({ ...before, [side]: tens > 5 ? unit + 8 : unit });
}

function longColour(codes: number[]): Colour | undefined {
  const kind = codes.shift() ?? 0;
  if (kind === 5 && codes.length) {
    return Math.min(codes.shift() as number, 255);
  }
  if (kind === 2 && codes.length >= 3) {
    const parts = codes
      .splice(0, 3)
      .map(part => Math.min(part, 255).toString(16).padStart(2, '0'));
    return `#${parts.join('')}`;
  }
  codes.length = 0;
  return undefined;
}
