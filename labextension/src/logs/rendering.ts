/** Draws one line of a log into its element, with looks and found places; only ever as text. */
import { ILook, colourOf } from './looks';
import { Line } from './screen';
import { IMatch } from './search';

/** Fill *node* with a line, in which places are marked, one of them as the current. */
export function drawLine(
  node: HTMLElement,
  line: Line,
  matches: readonly IMatch[],
  current: IMatch | undefined
): void {
  if (!matches.length && line.spans.every(span => !span.look.key)) {
    node.textContent = line.text;
    return;
  }
  const parts: (string | HTMLElement)[] = [];
  let at = 0;
  for (const { text, look } of line.spans) {
    for (const [piece, match] of pieces(text, at, matches)) {
      parts.push(dressed(piece, look, match, match === current));
    }
    at += text.length;
  }
  node.replaceChildren(...parts);
}

/** Yield the pieces of a span's *text*, which begins *at*, each with the place it is in. */
function* pieces(
  text: string,
  at: number,
  matches: readonly IMatch[]
): Generator<[string, IMatch | undefined]> {
  let done = 0;
  for (const match of matches) {
    const start = Math.max(match.start - at, done);
    const stop = Math.min(match.stop - at, text.length);
    if (stop <= start) {
      continue;
    }
    if (start > done) {
      yield [text.slice(done, start), undefined];
    }
    yield [text.slice(start, stop), match];
    done = stop;
  }
  if (done < text.length) {
    yield [text.slice(done), undefined];
  }
}

function dressed(
  text: string,
  look: ILook,
  match: IMatch | undefined,
  isCurrent: boolean
): string | HTMLElement {
  if (!match && !look.key) {
    return text;
  }
  const node = document.createElement(match ? 'mark' : 'span');
  node.textContent = text;
  if (match) {
    node.className = 'jp-dstack-LogViewport-match';
    node.classList.toggle('jp-mod-current', isCurrent);
  }
  if (look.key) {
    dress(node, look, !match);
  }
  return node;
}

/** Give *node* a look, with its colours if *inColour*. */
function dress(node: HTMLElement, look: ILook, inColour: boolean): void {
  const { style } = node;
  let front = look.front === undefined ? '' : colourOf(look.front);
  let back = look.back === undefined ? '' : colourOf(look.back);
  if (look.inverse) {
    [front, back] = [
      back || 'var(--jp-layout-color0)',
      front || 'var(--jp-content-font-color1)'
    ];
  }
  if (!front && typeof look.back === 'number' && look.back < 16) {
    // The theme's colours stand out from the page, so on them the page's own colour does.
    front = 'var(--jp-layout-color0)';
  }
  if (inColour) {
    style.color = front;
    style.backgroundColor = back;
  }
  style.fontWeight = look.bold ? 'bold' : '';
  style.opacity = look.dim ? '0.75' : '';
  style.fontStyle = look.italic ? 'italic' : '';
  const lines = [look.underline && 'underline', look.strike && 'line-through'];
  style.textDecoration = lines.filter(Boolean).join(' ');
}
