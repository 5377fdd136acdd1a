/** What stands above a log: search, following, copying, and how the reading goes. */
import { TranslationBundle } from '@jupyterlab/translation';
import {
  LabIcon,
  ReactWidget,
  UseSignal,
  caretDownIcon,
  caretUpIcon,
  copyIcon,
  downloadIcon
} from '@jupyterlab/ui-components';
import React, { useEffect, useState } from 'react';

import { countText } from '../format';
import { Fragment, h } from '../jsx';
import { whyOf } from '../status/endings';
import type { LogPanel } from './panel';

/** For how long is said what was copied, in milliseconds. */
const WHILE = 3_000;

/** The bar of one panel. */
export class LogBar extends ReactWidget {
  constructor(
    private readonly panel: LogPanel,
    private readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-dstack-LogBar');
  }

  protected render(): JSX.Element {
    return (
      <UseSignal signal={this.panel.changed}>
        {() => <Bar panel={this.panel} trans={this.trans} />}
      </UseSignal>
    );
  }
}

interface IProps {
  panel: LogPanel;
  trans: TranslationBundle;
}

function Bar({ panel, trans }: IProps): JSX.Element {
  const [said, say] = useState('');
  useEffect(() => {
    const timer = said ? setTimeout(() => say(''), WHILE) : undefined;
    return () => clearTimeout(timer);
  }, [said]);
  const copy = () => {
    const lines = panel.copy();
    say(trans._n('%2 line copied', '%2 lines copied', lines, countText(lines)));
  };
  const download = () => {
    say(trans.__('Downloading …'));
    panel.download().then(
      () => say(trans.__('Downloaded')),
      error => say(trans.__('It could not be downloaded: %1', String(error)))
    );
  };
  const { viewport } = panel;
  return (
    <>
      <div
        className="jp-dstack-LogBar-row"
        role="group"
        aria-label={trans.__('Log of %1', panel.name)}
      >
        <Search panel={panel} trans={trans} />
        <span className="jp-dstack-LogBar-said" role="status">
          {said || linesText(panel, trans)}
        </span>
        <Replicas panel={panel} trans={trans} />
        <label
          className="jp-dstack-LogBar-follow"
          title={trans.__('Keep the end in sight (End)')}
        >
          <input
            type="checkbox"
            checked={viewport.following}
            onChange={event => {
              viewport.following = event.target.checked;
            }}
          />
          {trans.__('Follow')}
        </label>
        <Button
          icon={copyIcon}
          label={trans.__('Copy')}
          title={trans.__('Copy what is selected, or else everything')}
          onClick={copy}
        />
        <Button
          icon={downloadIcon}
          label={trans.__('Download')}
          title={trans.__('Save all output as a file')}
          onClick={download}
        />
      </div>
      <Remark panel={panel} trans={trans} />
    </>
  );
}

/** The box of words to find, and the way to their places. */
function Search({ panel, trans }: IProps): JSX.Element {
  const [query, setQuery] = useState(panel.query);
  const write = (value: string) => {
    setQuery(value);
    panel.query = value;
  };
  const onKeyDown = (event: React.KeyboardEvent) => {
    if (event.nativeEvent.isComposing) {
      return;
    }
    if (event.key === 'Enter') {
      panel.go(event.shiftKey ? -1 : 1);
    } else if (event.key === 'Escape') {
      write('');
      panel.viewport.node.focus();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  };
  const isIdle = !panel.viewport.search?.matches.length;
  return (
    <span className="jp-dstack-LogBar-find" role="search">
      <input
        type="text"
        className="jp-dstack-LogBar-search"
        aria-label={trans.__('Search in the log')}
        placeholder={trans.__('Search in the log')}
        title={trans.__(
          'Ctrl F; Enter goes to the next place, Shift Enter to the previous one. Case matters where there is an upper-case letter.'
        )}
        spellCheck={false}
        autoComplete="off"
        maxLength={1000}
        value={query}
        onChange={event => write(event.target.value)}
        onKeyDown={onKeyDown}
      />
      <span className="jp-dstack-LogBar-count" role="status">
        {matchesText(panel, trans)}
      </span>
      <Button
        icon={caretUpIcon}
        label={trans.__('Previous match')}
        isBare
        disabled={isIdle}
        onClick={() => panel.go(-1)}
      />
      <Button
        icon={caretDownIcon}
        label={trans.__('Next match')}
        isBare
        disabled={isIdle}
        onClick={() => panel.go(1)}
      />
    </span>
  );
}

/** The choice among a service's replicas. */
function Replicas({ panel, trans }: IProps): JSX.Element | null {
  const { replicas } = panel;
  if (!replicas.length) {
    return null;
  }
  return (
    <select
      className="jp-dstack-LogBar-replica"
      aria-label={trans.__('Replica')}
      value={panel.replica ?? ''}
      onChange={event => {
        const { value } = event.target;
        panel.replica = value === '' ? null : Number(value);
      }}
    >
      <option value="">{trans.__('first replica')}</option>
      {replicas.map(number => (
        <option key={number} value={number}>
          {trans.__('replica %1', number)}
        </option>
      ))}
    </select>
  );
}

/** Why there is no output, or no more of it. */
function Remark({ panel, trans }: IProps): JSX.Element {
  const text = remarkText(panel, trans);
  const isRefused = panel.reader.state === 'refused';
  return (
    <div
      className="jp-dstack-LogBar-remark"
      role={isRefused ? 'alert' : 'status'}
      hidden={!text}
    >
      {text}
      {isRefused || panel.reader.state === 'broken' ? (
        <button type="button" onClick={() => panel.reader.retry()}>
          {trans.__('Try again')}
        </button>
      ) : null}
    </div>
  );
}

function Button(props: {
  icon: LabIcon;
  label: string;
  title?: string;
  isBare?: boolean;
  disabled?: boolean;
  onClick: () => void;
}): JSX.Element {
  return (
    <button
      type="button"
      className="jp-dstack-LogBar-button"
      aria-label={props.label}
      title={props.title ?? props.label}
      disabled={props.disabled}
      onClick={props.onClick}
    >
      <props.icon.react tag="span" aria-hidden="true" width="16px" />
      {props.isBare ? null : (
        <span className="jp-dstack-LogBar-word">{props.label}</span>
      )}
    </button>
  );
}

function linesText(panel: LogPanel, trans: TranslationBundle): string {
  const { dropped, end } = panel.screen;
  const kept = end - dropped;
  if (!end) {
    return '';
  }
  return dropped
    ? trans.__(
        'the last %1 of %2 lines; all are in the download',
        countText(kept),
        countText(end)
      )
    : trans._n('%2 line', '%2 lines', end, countText(end));
}

function matchesText(panel: LogPanel, trans: TranslationBundle): string {
  const { search } = panel.viewport;
  if (!search) {
    return '';
  }
  const { matches, current, isCut } = search;
  const count = `${countText(matches.length)}${isCut ? '+' : ''}`;
  if (!matches.length) {
    return panel.isSearched ? trans.__('nothing found') : trans.__('searching');
  }
  return current < 0
    ? trans.__('%1 found', count)
    : trans.__('%1 of %2', countText(current + 1), count);
}

function remarkText(panel: LogPanel, trans: TranslationBundle): string {
  const { reader, run, name } = panel;
  const { trouble } = reader;
  if (reader.state === 'broken') {
    return trouble.kind === 'engine-down'
      ? trans.__('The engine does not run; the output goes on when it does.')
      : trans.__('The output has broken off; it is taken up again soon.');
  }
  if (reader.state === 'refused') {
    return refusalText(panel, trans);
  }
  if (panel.screen.end || reader.state === 'paused') {
    return '';
  }
  if (run?.finished) {
    const why = run.reason ? trans.__('it %1', whyOf(run, trans)) : '';
    return [trans.__('%1 has printed nothing', name), why]
      .filter(Boolean)
      .join(': ');
  }
  return run?.waiting
    ? trans.__('Nothing has been printed yet: %1', run.waiting)
    : trans.__('Nothing has been printed yet.');
}

function refusalText(panel: LogPanel, trans: TranslationBundle): string {
  const { trouble } = panel.reader;
  switch (trouble.kind) {
    case 'not-authorised':
      return trans.__('You may not read this output. Log in to Jupyter again.');
    case 'not-installed':
      return trans.__(
        'The server has no dstack-jupyter, or has it disabled: jupyter server extension list'
      );
    case 'failed':
      return [trouble.message, trouble.hint].filter(Boolean).join(' ');
    default:
      return '';
  }
}
