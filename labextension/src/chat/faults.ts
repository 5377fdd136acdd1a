/** What went wrong with a question to a model, and what to do. Pure. */
import { ITranslate } from '../format';

/** A question was not answered, or not wholly. */
export class ChatFault extends Error {
  constructor(
    message: string,
    /** The gateway's or the engine's word for it; empty where there is none. */
    readonly code: string,
    readonly status: number,
    /** What to do, where who refused says it. */
    readonly hint: string | null = null
  ) {
    super(message);
    this.name = 'ChatFault';
  }
}

/** Return the fault that an answer's *body* tells: ours, or one of OpenAI's form. */
export function faultOf(status: number, body: string): ChatFault {
  let parsed: any;
  try {
    parsed = JSON.parse(body);
  } catch {
    // A page, or plain text: shown as it is, if it is short.
  }
  const error = parsed?.error ?? parsed;
  const message = typeof error === 'string' ? error : error?.message;
  const plain =
    parsed !== undefined || /^\s*</.test(body) ? '' : body.trim().slice(0, 500);
  return new ChatFault(
    word(message) || plain || `The answer was ${status}.`,
    word(error?.code),
    status,
    word(error?.hint) || null
  );
}

/** Return the fault as a sentence: what others say as they say it, our own translated. */
export function sentenceOf(fault: ChatFault, trans: ITranslate): string {
  switch (fault.code) {
    case 'network':
      return trans.__('The connection to the server broke off.');
    case 'broken-off':
      return trans.__("The model's answer broke off.");
    case 'not-openai':
      return trans.__("The model's answer is not of the form of OpenAI's API.");
    case 'too-long':
      return trans.__('The conversation has become too long.');
    default:
      return fault.message;
  }
}

/** Return what the reader can do about a fault; empty where nothing is known. */
export function remedyOf(fault: ChatFault, trans: ITranslate): string {
  if (fault.hint) {
    return fault.hint;
  }
  switch (fault.code) {
    case 'model_not_found':
      return trans.__(
        'Start a service that serves it, or choose another one in the sidebar.'
      );
    case 'engine-down':
      return trans.__('Start the engine in the sidebar, then try again.');
    case 'rate_limited':
    case 'no_room':
      return trans.__('Wait a moment, then try again.');
    case 'too-long':
      return trans.__('Begin a new chat.');
    case 'network':
      return trans.__('Is the Jupyter server still there? Then try again.');
  }
  if (fault.status === 401 || fault.status === 403) {
    return trans.__('Log in to Jupyter again.');
  }
  return isOfReplica(fault) ? trans.__("The service's logs may say why.") : '';
}

/** Return whether the logs of the model's service may tell more. */
export function isOfReplica(fault: ChatFault): boolean {
  return fault.status >= 500 && fault.code !== 'engine-down';
}

function word(value: unknown): string {
  return typeof value === 'string' ? value : '';
}
