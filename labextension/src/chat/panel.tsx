/** A chat with one model in the main area; what a model says is shown as text, never as markup. */
import { Clipboard } from '@jupyterlab/apputils';
import { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import { CommandRegistry } from '@lumino/commands';
import { Message } from '@lumino/messaging';
import { ISignal, Signal } from '@lumino/signaling';
import { useLayoutEffect, useRef, useState } from 'react';

import { dstackIcon } from '../icons';
import { Fragment, h } from '../jsx';
import { CommandIDs, IModel } from '../tokens';
import { codeOf } from './code';
import { Conversation, ITurn } from './conversation';
import { isOfReplica, remedyOf, sentenceOf } from './faults';
import { Options } from './options';

/** A tab with a chat. */
export class ChatPanel extends ReactWidget {
  constructor(readonly options: ChatPanel.IOptions) {
    super();
    const { conversation, trans } = options;
    this.id = ChatPanel.idOf(conversation.model);
    this.addClass('jp-dstack-ChatPanel');
    this.title.label = trans.__('Chat with %1', conversation.model);
    this.title.caption = trans.__(
      'A chat with the model %1',
      conversation.model
    );
    this.title.icon = dstackIcon;
    this.title.closable = true;
    this.node.tabIndex = -1;
    conversation.changed.connect(this._onChange, this);
  }

  /** The model's name. */
  get model(): string {
    return this.options.conversation.model;
  }

  /** Emitted after the conversation has changed, at most once a frame. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Let go of everything, the answer under way too. */
  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    cancelAnimationFrame(this._frame);
    this.options.conversation.changed.disconnect(this._onChange, this);
    this.options.conversation.stop();
    super.dispose();
    Signal.clearData(this);
  }

  protected render(): JSX.Element {
    return (
      <UseSignal signal={this._changed}>
        {() => <Chat {...this.options} />}
      </UseSignal>
    );
  }

  protected onActivateRequest(_: Message): void {
    const box = this.node.querySelector<HTMLElement>(
      '.jp-dstack-ChatPanel-message'
    );
    (box ?? this.node).focus();
  }

  protected onCloseRequest(msg: Message): void {
    super.onCloseRequest(msg);
    this.dispose();
  }

  private _onChange(): void {
    this._frame ||= requestAnimationFrame(() => {
      this._frame = 0;
      this._changed.emit();
    });
  }

  private _frame = 0;
  private _changed = new Signal<this, void>(this);
}

export namespace ChatPanel {
  export interface IOptions {
    conversation: Conversation;
    model: IModel;
    commands: CommandRegistry;
    trans: TranslationBundle;
  }

  /** Return the panel's id for a model's name. */
  export function idOf(model: string): string {
    return `dstack-chat-${model}`;
  }
}

function Chat(props: ChatPanel.IOptions): JSX.Element {
  const { conversation, commands, trans } = props;
  const { turns } = conversation;
  const insert = () => {
    const asked = turns.length
      ? conversation.asked()
      : conversation.asked(trans.__('Hello!'));
    void commands.execute(CommandIDs.insertText, { text: codeOf(asked) });
  };
  return (
    <>
      <Talk {...props} />
      <Options conversation={conversation} trans={trans} />
      <Composer {...props} />
      <div className="jp-dstack-ChatPanel-foot">
        <button
          type="button"
          title={trans.__(
            'Put Python that asks the same below the active cell'
          )}
          onClick={insert}
        >
          {trans.__('Insert as code')}
        </button>
        <button
          type="button"
          disabled={!turns.length}
          title={trans.__('Forget this conversation')}
          onClick={() => conversation.forget()}
        >
          {trans.__('New chat')}
        </button>
      </div>
    </>
  );
}

/** What was said, the end kept in sight until the reader scrolls up. */
function Talk(props: ChatPanel.IOptions): JSX.Element {
  const { conversation, trans } = props;
  const box = useRef<HTMLDivElement>(null);
  const isAtEnd = useRef(true);
  const count = useRef(0);
  useLayoutEffect(() => {
    const isNew = conversation.turns.length > count.current;
    count.current = conversation.turns.length;
    if (box.current && (isAtEnd.current || isNew)) {
      box.current.scrollTop = box.current.scrollHeight;
    }
  });
  const onScroll = () => {
    const { scrollTop, scrollHeight, clientHeight } =
      box.current as HTMLDivElement;
    isAtEnd.current = scrollHeight - scrollTop - clientHeight < 24;
  };
  return (
    <div
      ref={box}
      className="jp-dstack-ChatPanel-talk"
      role="log"
      aria-label={trans.__('Conversation')}
      aria-busy={conversation.isBusy}
      tabIndex={0}
      onScroll={onScroll}
    >
      {conversation.turns.length ? null : (
        <p className="jp-dstack-ChatPanel-empty">
          {trans.__(
            'Ask %1 something. The conversation is kept until this tab is closed.',
            conversation.model
          )}
        </p>
      )}
      {conversation.turns.map((turn, at) => (
        <Turn
          key={at}
          {...props}
          turn={turn}
          isLast={at === conversation.turns.length - 1}
        />
      ))}
    </div>
  );
}

function Turn(
  props: ChatPanel.IOptions & { turn: ITurn; isLast: boolean }
): JSX.Element {
  const { turn, trans, conversation } = props;
  const state = stateText(props);
  return (
    <>
      <Words who={trans.__('You')} kind="mine" text={turn.question} />
      {turn.answer ? (
        <Words
          who={conversation.model}
          kind="theirs"
          text={turn.answer}
          copy={
            turn.state === 'answering'
              ? undefined
              : { label: trans.__('Copy'), said: trans.__('Copied') }
          }
        />
      ) : null}
      {state ? <p className="jp-dstack-ChatPanel-state">{state}</p> : null}
      {turn.fault ? <Fault {...props} /> : null}
    </>
  );
}

function Words(props: {
  who: string;
  kind: 'mine' | 'theirs';
  text: string;
  copy?: { label: string; said: string };
}): JSX.Element {
  const { who, kind, text, copy } = props;
  const [isCopied, setCopied] = useState(false);
  return (
    <div className={`jp-dstack-ChatPanel-turn jp-mod-${kind}`}>
      <span className="jp-dstack-ChatPanel-who">{who}</span>
      {copy ? (
        <button
          type="button"
          className="jp-dstack-ChatPanel-copy"
          onBlur={() => setCopied(false)}
          onClick={() => {
            Clipboard.copyToSystem(text);
            setCopied(true);
          }}
        >
          {isCopied ? copy.said : copy.label}
        </button>
      ) : null}
      <div className="jp-dstack-ChatPanel-words">{text}</div>
    </div>
  );
}

/** What went wrong, and what to do about it. */
function Fault(
  props: ChatPanel.IOptions & { turn: ITurn; isLast: boolean }
): JSX.Element | null {
  const { turn, isLast, conversation, commands, model, trans } = props;
  if (!turn.fault) {
    return null;
  }
  const row = model.models.find(each => each.name === conversation.model);
  const runs = isOfReplica(turn.fault) ? (row?.runs ?? []) : [];
  return (
    <div className="jp-dstack-ChatPanel-fault" role="alert">
      <p>✕ {sentenceOf(turn.fault, trans)}</p>
      <p>{remedyOf(turn.fault, trans)}</p>
      {isLast ? (
        <button type="button" onClick={() => void conversation.again()}>
          {trans.__('Try again')}
        </button>
      ) : null}
      {runs.map(name => (
        <button
          key={name}
          type="button"
          onClick={() => void commands.execute(CommandIDs.openLogs, { name })}
        >
          {trans.__('Logs of %1', name)}
        </button>
      ))}
    </div>
  );
}

/** The box for the next question. */
function Composer({ conversation, trans }: ChatPanel.IOptions): JSX.Element {
  const [text, setText] = useState('');
  const send = () => {
    if (text.trim() && !conversation.isBusy) {
      void conversation.say(text.trim());
      setText('');
    }
  };
  return (
    <div className="jp-dstack-ChatPanel-composer">
      <textarea
        className="jp-dstack-ChatPanel-message"
        rows={3}
        autoFocus
        aria-label={trans.__('Message to the model')}
        placeholder={trans.__('Ask the model …')}
        title={trans.__('Enter sends; Shift Enter begins a new line')}
        value={text}
        onChange={event => setText(event.target.value)}
        onKeyDown={event => {
          const { isComposing } = event.nativeEvent;
          if (event.key === 'Enter' && !event.shiftKey && !isComposing) {
            event.preventDefault();
            send();
          }
        }}
      />
      {conversation.isBusy ? (
        <button type="button" onClick={() => conversation.stop()}>
          {trans.__('Stop answering')}
        </button>
      ) : (
        <button
          type="button"
          className="jp-mod-primary"
          disabled={!text.trim()}
          onClick={send}
        >
          {trans.__('Send')}
        </button>
      )}
    </div>
  );
}

function stateText(props: ChatPanel.IOptions & { turn: ITurn }): string {
  const { turn, trans } = props;
  switch (turn.state) {
    case 'asked':
      return trans.__('Waiting for the answer …');
    case 'waiting':
      return trans.__('Waiting for a replica, %1 s', turn.waited);
    case 'answering':
      return turn.answer ? '' : trans.__('The model is thinking …');
    case 'stopped':
      return trans.__('Stopped.');
    case 'done':
      return turn.answer ? '' : trans.__('The model answered nothing.');
    default:
      return '';
  }
}
