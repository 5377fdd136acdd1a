import { describe, expect, it } from 'vitest';

import { colourOf, look } from '../logs/looks';
import { LogScreen } from '../logs/screen';

function shown(...pieces: string[]): string {
  const screen = new LogScreen();
  pieces.forEach(piece => screen.write(piece));
  return screen.text();
}

const CASES: [string, string, string][] = [
  ['lines', 'one\ntwo\n', 'one\ntwo'],
  ['an unfinished line', 'one\ntw', 'one\ntw'],
  ['windows line ends', 'one\r\ntwo\r\n', 'one\ntwo'],
  ['empty lines', '\n\nx\n', '\n\nx'],
  ['a progress bar', '\r 1%\r 50%\r100%\nend', '100%\nend'],
  ['a shorter text over a longer one', 'abcdef\rxy', 'xycdef'],
  ['backspaces', 'abc\b\bX', 'aXc'],
  ['tabs', 'a\tb\n12345678\tc', 'a       b\n12345678        c'],
  ['colours', '\x1b[1;31mred\x1b[0m \x1b[38;5;200mp\x1b[m', 'red p'],
  ['colours overwritten', '\x1b[31mabcdef\rX\x1b[0mY', 'XYcdef'],
  ['several bars', '\ra 1\n\rb 1\x1b[A\ra 2\n\rb 2\x1b[A\ra 3\n\n', 'a 3\nb 2'],
  [
    'cursor up and erase',
    'one\ntwo\nthree\x1b[2A\r\x1b[2Knew',
    'new\ntwo\nthree'
  ],
  ['erase to the end', 'abcdef\r\x1b[3C\x1b[K', 'abc'],
  ['erase below', 'one\ntwo\nthree\x1b[2A\r\x1b[J', ''],
  ['columns', 'abc\x1b[2GX\x1b[6GY', 'aXc  Y'],
  ['titles', '\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\x1b]8;;\x1b\\', 'ab'],
  ['modes and bells', '\x1b[?25la\x07\x1b[?25h\x1b=b\x00', 'ab'],
  ['beyond the basic plane', '🚀🚀🚀\r🐢', '🐢🚀🚀'],
  ['a line without end', 'x'.repeat(10_001), `${'x'.repeat(10_000)}\nx`],
  ['up beyond the top', 'a\x1b[99A\rb', 'b'],
  [
    'absurd numbers',
    `a\x1b[${'9'.repeat(20)}Cb\x1b[${'9'.repeat(300)}mc`,
    'a bc'
  ],
  ['markup', '<b>&amp;</b>', '<b>&amp;</b>']
];

describe('a log screen', () => {
  it.each(CASES)('shows %s as a terminal would', (_, text, shows) => {
    expect(shown(text)).toBe(shows);
  });

  it.each(CASES)(
    'shows %s alike when it comes in single characters',
    (_, text, shows) => {
      expect(shown(...Array.from(text))).toBe(shows);
    }
  );

  it('gives up an escape that never ends', () => {
    const text = `a\x1b]${'x'.repeat(5000)}`;
    expect(shown(text, 'b')).toBe(`a]${'x'.repeat(5000)}b`);
  });

  it('says its own words on a line of their own', () => {
    const screen = new LogScreen();
    screen.write('abc');
    screen.mark('5 MB left out');
    screen.write('d');
    expect(screen.text()).toBe('abc\n5 MB left out\nd');
  });

  it('keeps the last lines under their numbers and hands out those it lets go', () => {
    const gone: string[] = [];
    const screen = new LogScreen({
      limit: 1000,
      onDrop: lines => lines.forEach(line => gone.push(line.text))
    });
    for (let number = 0; number < 5_000; number += 1) {
      screen.write(`line ${number}\n`);
    }
    expect(screen.end).toBe(5_000);
    expect(screen.end - screen.dropped).toBeLessThanOrEqual(1_200);
    expect(screen.at(4_999).text).toBe('line 4999');
    expect(screen.at(screen.dropped).text).toBe(`line ${screen.dropped}`);
    expect(gone).toHaveLength(screen.dropped);
    expect(gone[gone.length - 1]).toBe(`line ${screen.dropped - 1}`);
  });

  it('is bounded in characters too', () => {
    const screen = new LogScreen({ characters: 1_000_000 });
    for (let number = 0; number < 300; number += 1) {
      screen.write('x'.repeat(10_000) + '\n');
    }
    expect(screen.end - screen.dropped).toBeLessThanOrEqual(400);
    expect(screen.text().length).toBeLessThan(3_000_000);
  });

  it('changes nothing above the lines it calls unsettled', () => {
    const screen = new LogScreen();
    for (let number = 0; number < 2_000; number += 1) {
      screen.write(`${number}\n`);
    }
    const versions = (from: number, to: number) =>
      Array.from(
        { length: to - from },
        (_, at) => screen.at(from + at).version
      );
    const { settled } = screen;
    const before = versions(0, settled);
    screen.write('\x1b[9999A\rchanged');
    expect(screen.at(settled).text).toMatch(/^changed/);
    expect(versions(0, settled)).toEqual(before);
  });

  it('forgets everything when cleared', () => {
    const screen = new LogScreen({ limit: 10 });
    screen.write('\x1b[31m' + 'x\n'.repeat(1000));
    screen.clear();
    screen.write('plain');
    expect([screen.dropped, screen.end, screen.text()]).toEqual([
      0,
      1,
      'plain'
    ]);
    expect(screen.at(0).spans[0].look.key).toBe('');
  });
});

describe('looks', () => {
  it('are understood with their ends', () => {
    const screen = new LogScreen();
    screen.write(
      '\x1b[1;31ma\x1b[22mb\x1b[39mc\x1b[48;2;1;2;300md\x1b[0;38;5;208me\x1b[94;7mf'
    );
    expect(screen.at(0).spans).toEqual([
      { text: 'a', look: look({ bold: true, front: 1 }) },
      { text: 'b', look: look({ front: 1 }) },
      { text: 'c', look: look({}) },
      { text: 'd', look: look({ back: '#0102ff' }) },
      { text: 'e', look: look({ front: 208 }) },
      { text: 'f', look: look({ front: 12, inverse: true }) }
    ]);
  });

  it('that are alike are one', () => {
    expect(look({ front: 1, bold: true })).toBe(
      look({ bold: true, front: 1, dim: false })
    );
    expect(look({ bold: false })).toBe(look({}));
  });

  it('have colours of the theme, of the cube and of the greys', () => {
    expect(colourOf(1)).toBe('var(--jp-dstack-ansi-1)');
    expect(colourOf(208)).toBe('rgb(255,135,0)');
    expect(colourOf(232)).toBe('rgb(8,8,8)');
    expect(colourOf('#010203')).toBe('#010203');
  });
});
