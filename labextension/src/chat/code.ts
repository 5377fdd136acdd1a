/** A cell of Python that asks what the chat has asked. Pure. */
import { IAsked } from './conversation';

/** Return the code; the token is read by the package, and stands nowhere. */
export function codeOf(asked: IAsked): string {
  const messages = asked.messages.map(
    ({ role, content }) =>
      `        {"role": "${role}", "content": ${JSON.stringify(content)}},`
  );
  const options: string[] = [];
  if (asked.temperature !== undefined) {
    options.push(`    temperature=${asked.temperature},`);
  }
  if (asked.max_tokens !== undefined) {
    options.push(`    max_tokens=${asked.max_tokens},`);
  }
  return [
    'import dstack_jupyter',
    '',
    'client = dstack_jupyter.openai()',
    'answer = client.chat.completions.create(',
    `    model=${JSON.stringify(asked.model)},`,
    '    messages=[',
    ...messages,
    '    ],',
    ...options,
    ')',
    'print(answer.choices[0].message.content)'
  ].join('\n');
}
