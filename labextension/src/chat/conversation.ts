/** A conversation with one model: what was asked and answered, and what is under way. No page. */
import { ISignal, Signal } from '@lumino/signaling';

import { AnswerPart } from './answers';
import { ChatFault } from './faults';

/** More than this is not sent, in characters, and no longer answer is kept. */
export const MOST = 400_000;

/** A message as models read it. */
export interface IMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

/** How a model is to answer; what is left out is the model's own choice. */
export interface IChoices {
  system: string;
  temperature: number | null;
  maxTokens: number | null;
}

/** What a model is asked. */
export interface IAsked {
  model: string;
  messages: IMessage[];
  temperature?: number;
  max_tokens?: number;
}

/** Ask a model; the answer comes in parts, and ends when *signal* is aborted. */
export type Ask = (
  asked: IAsked,
  signal: AbortSignal
) => AsyncIterable<AnswerPart>;

/** A question and its answer, as far as it has come. */
export interface ITurn {
  readonly question: string;
  answer: string;
  state: 'asked' | 'waiting' | 'answering' | 'done' | 'stopped' | 'failed';
  /** For how many seconds a replica has been waited for. */
  waited: number;
  fault: ChatFault | null;
}

/** The talk with one model. */
export class Conversation {
  constructor(
    readonly model: string,
    private readonly ask: Ask
  ) {}

  /** The oldest first. */
  get turns(): readonly ITurn[] {
    return this._turns;
  }

  /** Whether an answer is under way. */
  get isBusy(): boolean {
    return this._stopping !== null;
  }

  /** Emitted after anything has changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  choices: IChoices = { system: '', temperature: null, maxTokens: null };

  /** Ask; resolves once the answer has ended, however it did. */
  async say(question: string): Promise<void> {
    if (this.isBusy || !question.trim()) {
      return;
    }
    const turn: ITurn = {
      question,
      answer: '',
      state: 'asked',
      waited: 0,
      fault: null
    };
    this._turns.push(turn);
    await this._answer(turn);
  }

  /** Ask the last question again, in place of its answer. */
  async again(): Promise<void> {
    const turn = this._turns[this._turns.length - 1];
    if (turn && !this.isBusy) {
      Object.assign(turn, {
        answer: '',
        state: 'asked',
        waited: 0,
        fault: null
      });
      await this._answer(turn);
    }
  }

  /** Want no more of the answer that is under way. */
  stop(): void {
    this._stopping?.abort();
  }

  /** Begin anew. */
  forget(): void {
    this.stop();
    this._turns = [];
    this._changed.emit();
  }

  /** Return what would be asked if *question* were, or what was asked last. */
  asked(question?: string): IAsked {
    const { system, temperature, maxTokens } = this.choices;
    const messages: IMessage[] = [];
    if (system.trim()) {
      messages.push({ role: 'system', content: system });
    }
    this._turns.forEach((turn, at) => {
      const isLast = at === this._turns.length - 1 && question === undefined;
      if (isLast) {
        messages.push({ role: 'user', content: turn.question });
      } else if (turn.answer) {
        messages.push({ role: 'user', content: turn.question });
        messages.push({ role: 'assistant', content: turn.answer });
      }
    });
    if (question !== undefined) {
      messages.push({ role: 'user', content: question });
    }
    return {
      model: this.model,
      messages,
      ...(temperature === null ? {} : { temperature }),
      ...(maxTokens === null ? {} : { max_tokens: maxTokens })
    };
  }

  private async _answer(turn: ITurn): Promise<void> {
    const stopping = new AbortController();
    this._stopping = stopping;
    this._changed.emit();
    try {
      const asked = this.asked();
      checkSize(asked);
      for await (const part of this.ask(asked, stopping.signal)) {
        hear(turn, part);
        this._changed.emit();
        if (turn.answer.length > MOST) {
          stopping.abort();
        }
        if (stopping.signal.aborted) {
          break;
        }
      }
      turn.state = stopping.signal.aborted ? 'stopped' : 'done';
    } catch (error) {
      turn.state = stopping.signal.aborted ? 'stopped' : 'failed';
      turn.fault = stopping.signal.aborted
        ? null
        : error instanceof ChatFault
          ? error
          : new ChatFault(String(error), '', 0);
    }
    if (this._stopping === stopping) {
      this._stopping = null;
    }
    this._changed.emit();
  }

  private _turns: ITurn[] = [];
  private _stopping: AbortController | null = null;
  private _changed = new Signal<this, void>(this);
}

function hear(turn: ITurn, part: AnswerPart): void {
  if (part.kind === 'waiting') {
    turn.state = 'waiting';
    turn.waited = part.seconds;
  } else {
    turn.state = 'answering';
    turn.answer += part.kind === 'text' ? part.text : '';
  }
}

function checkSize(asked: IAsked): void {
  const size = asked.messages.reduce(
    (sum, message) => sum + message.content.length,
    0
  );
  if (size > MOST) {
    throw new ChatFault('The conversation is too long.', 'too-long', 400);
  }
}
