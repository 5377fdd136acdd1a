/** Reads what a model answers, in a stream or whole, in the form of OpenAI's API. Pure. */
import { StreamEvent, eventsOf } from './events';
import { ChatFault, faultOf } from './faults';

/** A part of an answer: words of it, or how long a replica has been waited for. */
export type AnswerPart =
  | { kind: 'text'; text: string }
  /** The model reasons, and says nothing yet. */
  | { kind: 'thinking' }
  | { kind: 'waiting'; seconds: number };

/** Yield the parts of an answer that comes in *chunks*; throw a `ChatFault` for an error in it. */
export async function* partsOf(
  chunks: AsyncIterable<string>,
  isStream: boolean
): AsyncGenerator<AnswerPart> {
  if (!isStream) {
    let body = '';
    for await (const chunk of chunks) {
      body += chunk;
    }
    yield whole(body);
    return;
  }
  let isFinished = false;
  for await (const event of eventsOf(chunks)) {
    if (event.kind === 'data' && event.data.trim() === '[DONE]') {
      return;
    }
    for (const part of heard(event)) {
      if (part === 'finished') {
        isFinished = true;
      } else {
        yield part;
      }
    }
  }
  if (!isFinished) {
    throw new ChatFault('The answer broke off.', 'broken-off', 502);
  }
}

function* heard(event: StreamEvent): Generator<AnswerPart | 'finished'> {
  if (event.kind === 'comment') {
    const waited = /^waiting for a replica of .*, (\d+) s$/.exec(event.text);
    if (waited) {
      yield { kind: 'waiting', seconds: Number(waited[1]) };
    }
    return;
  }
  const body = parsed(event.data);
  if (body?.error) {
    throw faultOf(502, event.data);
  }
  for (const choice of body?.choices ?? []) {
    const { content, reasoning_content, reasoning } = choice?.delta ?? {};
    if (content) {
      yield { kind: 'text', text: String(content) };
    } else if (reasoning_content || reasoning) {
      yield { kind: 'thinking' };
    }
    if (choice?.finish_reason) {
      yield 'finished';
    }
  }
}

function whole(body: string): AnswerPart {
  const answer = parsed(body);
  if (answer?.error) {
    throw faultOf(502, body);
  }
  return {
    kind: 'text',
    text: String(answer?.choices?.[0]?.message?.content ?? '')
  };
}

function parsed(text: string): any {
  try {
    return JSON.parse(text);
  } catch {
    throw new ChatFault('The answer is no JSON.', 'not-openai', 502);
  }
}
