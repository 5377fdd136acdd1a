/** Reads a stream of server-sent events, as models answer in one. Pure. */

/** What is between two blank lines: data, or a comment that only says "still here". */
export type StreamEvent =
  { kind: 'data'; data: string } | { kind: 'comment'; text: string };

/** No event of a model is longer than this, in characters. */
const LONGEST = 4_000_000;

/** Yield the events in *chunks* of text, which may be cut anywhere. */
export async function* eventsOf(
  chunks: AsyncIterable<string>
): AsyncGenerator<StreamEvent> {
  let rest = '';
  let data: string[] = [];
  for await (const chunk of chunks) {
    rest += chunk;
    // A CR at the end may be the first half of a CRLF.
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() as string;
    if (rest.length > LONGEST) {
      throw new Error('An event of the stream is too long.');
    }
    for (const line of lines) {
      if (line.startsWith(':')) {
        yield { kind: 'comment', text: line.slice(1).trim() };
      } else if (line.startsWith('data:')) {
        data.push(line.slice(5).replace(/^ /, ''));
      } else if (line === '' && data.length) {
        yield { kind: 'data', data: data.join('\n') };
        data = [];
      }
    }
  }
  const last = /^data: ?(.*)/.exec(rest.trimEnd());
  if (last) {
    data.push(last[1]);
  }
  if (data.length) {
    yield { kind: 'data', data: data.join('\n') };
  }
}
