import { describe, expect, it } from 'vitest';

import { AnswerPart, partsOf } from '../chat/answers';
import { codeOf } from '../chat/code';
import { Ask, Conversation, IAsked, MOST } from '../chat/conversation';
import { StreamEvent, eventsOf } from '../chat/events';
import {
  ChatFault,
  faultOf,
  isOfReplica,
  remedyOf,
  sentenceOf
} from '../chat/faults';

const trans = {
  __: (text: string, ...values: any[]) =>
    values.reduce((said, value, at) => said.replace(`%${at + 1}`, value), text),
  _n: (one: string, many: string, count: number) => (count === 1 ? one : many)
};

async function* of(
  ...chunks: string[]
): AsyncGenerator<string, void, undefined> {
  yield* chunks;
}

async function all<T>(given: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const each of given) {
    list.push(each);
  }
  return list;
}

const delta = (content: string, more: object = {}) =>
  `data: ${JSON.stringify({ choices: [{ delta: { content }, ...more }] })}\n\n`;

describe('a stream of events', () => {
  const TEXT =
    ': hello\n\ndata: one\r\ndata: two\r\n\r\nevent: x\ndata:three\n\ndata: four';
  const EVENTS: StreamEvent[] = [
    { kind: 'comment', text: 'hello' },
    { kind: 'data', data: 'one\ntwo' },
    { kind: 'data', data: 'three' },
    { kind: 'data', data: 'four' }
  ];

  it('is read whole', async () => {
    expect(await all(eventsOf(of(TEXT)))).toEqual(EVENTS);
  });

  it('is read the same cut anywhere', async () => {
    expect(await all(eventsOf(of(...TEXT)))).toEqual(EVENTS);
  });

  it('has no endless event', async () => {
    const endless = of('data: ', 'x'.repeat(3_000_000), 'x'.repeat(3_000_000));
    await expect(all(eventsOf(endless))).rejects.toThrow('too long');
  });
});

describe('an answer', () => {
  it('comes in parts, after a wait for a replica', async () => {
    const chunks = of(
      ': waiting for a replica of parrot, 5 s\n\n: something else\n\n',
      delta('Good '),
      delta('', { delta: { reasoning_content: 'hm' } }),
      delta('day', { finish_reason: 'stop' }),
      'data: [DONE]\n\n'
    );
    expect(await all(partsOf(chunks, true))).toEqual([
      { kind: 'waiting', seconds: 5 },
      { kind: 'text', text: 'Good ' },
      { kind: 'thinking' },
      { kind: 'text', text: 'day' }
    ]);
  });

  it('that breaks off is a fault, after what has come', async () => {
    const heard: AnswerPart[] = [];
    const listen = async () => {
      for await (const part of partsOf(of(delta('Good ')), true)) {
        heard.push(part);
      }
    };
    await expect(listen()).rejects.toMatchObject({ code: 'broken-off' });
    expect(heard).toEqual([{ kind: 'text', text: 'Good ' }]);
  });

  it('may end without the last word if the model said that it has finished', async () => {
    const chunks = of(delta('x', { finish_reason: 'length' }));
    expect(await all(partsOf(chunks, true))).toHaveLength(1);
  });

  it('may have an error in it', async () => {
    const error = { error: { message: 'No replica.', code: 'no_replica' } };
    const chunks = of(`: waiting\n\ndata: ${JSON.stringify(error)}\n\n`);
    await expect(all(partsOf(chunks, true))).rejects.toMatchObject({
      message: 'No replica.',
      code: 'no_replica'
    });
  });

  it('of a model that does not stream is heard too', async () => {
    const body = JSON.stringify({
      choices: [{ message: { content: 'whole' } }]
    });
    expect(
      await all(partsOf(of(body.slice(0, 9), body.slice(9)), false))
    ).toEqual([{ kind: 'text', text: 'whole' }]);
    await expect(all(partsOf(of('<html>'), false))).rejects.toMatchObject({
      code: 'not-openai'
    });
  });
});

describe('a fault', () => {
  it("has the gateway's words", () => {
    const fault = faultOf(
      404,
      '{"error":{"message":"No such model.","code":"model_not_found"}}'
    );
    expect([fault.message, fault.code, fault.status]).toEqual([
      'No such model.',
      'model_not_found',
      404
    ]);
    expect(remedyOf(fault, trans)).toMatch(/^Start a service/);
    expect(isOfReplica(fault)).toBe(false);
  });

  it("has the server's words, and its hint", () => {
    const fault = faultOf(
      503,
      '{"message":"Down.","hint":"Start it.","code":"engine-down"}'
    );
    expect(sentenceOf(fault, trans)).toBe('Down.');
    expect(remedyOf(fault, trans)).toBe('Start it.');
    expect(isOfReplica(fault)).toBe(false);
  });

  it('is told without words, and never as a page', () => {
    expect(faultOf(502, '<html>Bad gateway</html>').message).toBe(
      'The answer was 502.'
    );
    expect(faultOf(500, 'out of memory').message).toBe('out of memory');
    expect(faultOf(500, '"oops"').message).toBe('oops');
    expect(faultOf(500, 'null').message).toBe('The answer was 500.');
    expect(isOfReplica(faultOf(502, ''))).toBe(true);
  });
});

/** A model that answers with a script; asked counts what it was asked. */
function model(...answers: (AnswerPart | Error | 'wait')[][]) {
  const asked: IAsked[] = [];
  const ask: Ask = async function* (question, signal) {
    asked.push(structuredClone(question));
    for (const part of answers.shift() ?? []) {
      if (part === 'wait') {
        await new Promise((_, reject) =>
          signal.addEventListener('abort', () => reject(new Error('aborted')))
        );
      } else if (part instanceof Error) {
        throw part;
      } else {
        yield part;
      }
    }
  };
  return { asked, conversation: new Conversation('echo', ask) };
}

const text = (said: string): AnswerPart => ({ kind: 'text', text: said });

describe('a conversation', () => {
  it('sends what was said before', async () => {
    const { asked, conversation } = model([text('1'), text('2')], [text('3')]);
    conversation.choices = {
      system: 'Be brief.',
      temperature: 0,
      maxTokens: 5
    };
    await conversation.say('one');
    await conversation.say('two');
    expect(conversation.turns.map(turn => [turn.answer, turn.state])).toEqual([
      ['12', 'done'],
      ['3', 'done']
    ]);
    expect(asked[1]).toEqual({
      model: 'echo',
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'one' },
        { role: 'assistant', content: '12' },
        { role: 'user', content: 'two' }
      ],
      temperature: 0,
      max_tokens: 5
    });
  });

  it('is stopped with what has come, and goes on', async () => {
    const { asked, conversation } = model([text('half'), 'wait'], [text('x')]);
    conversation.changed.connect(() => {
      if (conversation.turns[0]?.answer === 'half') {
        conversation.stop();
      }
    });
    await conversation.say('one');
    expect(conversation.turns[0]).toMatchObject({
      state: 'stopped',
      answer: 'half'
    });
    expect(conversation.isBusy).toBe(false);
    await conversation.say('two');
    expect(asked[1].messages.map(each => each.content)).toEqual([
      'one',
      'half',
      'two'
    ]);
  });

  it('keeps a question that failed to ask it again, and does not send it later', async () => {
    const fault = new ChatFault('No.', 'no_replica', 503);
    const { asked, conversation } = model([fault], [fault], [text('yes')]);
    await conversation.say('one');
    expect(conversation.turns[0]).toMatchObject({ state: 'failed', fault });
    await conversation.again();
    expect(asked[1]).toEqual(asked[0]);
    await conversation.say('two');
    expect(asked[2].messages).toEqual([{ role: 'user', content: 'two' }]);
  });

  it('says for how long a replica has been waited for', async () => {
    const { conversation } = model([{ kind: 'waiting', seconds: 7 }, 'wait']);
    const waited = new Promise<void>(resolve =>
      conversation.changed.connect(
        () => conversation.turns[0]?.waited && resolve()
      )
    );
    const said = conversation.say('one');
    await waited;
    expect(conversation.turns[0]).toMatchObject({
      state: 'waiting',
      waited: 7
    });
    await conversation.say('meanwhile');
    expect(conversation.turns).toHaveLength(1);
    conversation.forget();
    await said;
    expect(conversation.turns).toHaveLength(0);
  });

  it('is bounded, what is asked and what is answered', async () => {
    const { asked, conversation } = model([text('x'.repeat(MOST + 1)), 'wait']);
    await conversation.say('one');
    expect(conversation.turns[0].state).toBe('stopped');
    await conversation.say('two');
    expect(asked).toHaveLength(1);
    expect(conversation.turns[1].fault?.code).toBe('too-long');
  });
});

describe('code', () => {
  it('asks what the chat has asked', () => {
    const code = codeOf({
      model: 'echo',
      messages: [{ role: 'user', content: 'a "quoted"\nline' }],
      temperature: 0.5,
      max_tokens: 7
    });
    expect(code).toContain('client = dstack_jupyter.openai()');
    expect(code).toContain(
      '        {"role": "user", "content": "a \\"quoted\\"\\nline"},'
    );
    expect(code).toContain('    temperature=0.5,\n    max_tokens=7,\n)');
  });
});
