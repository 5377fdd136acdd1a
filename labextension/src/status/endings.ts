/** What is said when runs have ended: which of them, and in which words. Pure. */
import { ITranslate, elapsedText, moneyText } from '../format';
import { IRunRow } from '../records';

/** Which ends are told. */
export type Wish = 'all' | 'failures' | 'none';

/** Lab cuts what is longer, in characters. */
const LONGEST = 140;
/** So many names are said of runs that ended alike. */
const NAMES = 3;

/** What is told of one end, or of several at once. */
export interface INotice {
  kind: 'success' | 'error' | 'info';
  message: string;
}

/** Return whether the end of *run* is told; *isOwn* if this page has stopped it. */
export function isTold(run: IRunRow, wish: Wish, isOwn: boolean): boolean {
  if (wish === 'none' || (isOwn && run.status === 'terminated')) {
    return false;
  }
  return wish === 'all' || run.status === 'failed';
}

/** Return the notice of *runs* that have ended, which are not none. */
export function noticeOf(runs: readonly IRunRow[], trans: ITranslate): INotice {
  const message =
    runs.length === 1 ? sentenceOf(runs[0], trans) : sumOf(runs, trans);
  const kind = runs.some(run => run.status === 'failed')
    ? 'error'
    : runs.every(run => run.status === 'done')
      ? 'success'
      : 'info';
  return { kind, message: cut(message) };
}

function sentenceOf(run: IRunRow, trans: ITranslate): string {
  const { name } = run;
  if (run.status === 'done') {
    const time = elapsedText(run, Date.now());
    return run.cost
      ? trans.__('%1 is done after %2, for %3', name, time, moneyText(run.cost))
      : trans.__('%1 is done after %2', name, time);
  }
  const why = whyOf(run, trans);
  if (run.status === 'failed') {
    return why
      ? trans.__('%1 failed: it %2', name, why)
      : trans.__('%1 failed', name);
  }
  return why ? trans.__('%1 %2', name, why) : trans.__('%1 has ended', name);
}

/** Return why a run has ended, as a sentence's end; empty where nothing is known. */
export function whyOf(run: IRunRow, trans: ITranslate): string {
  if (!run.reason) {
    return '';
  }
  const isSaid = run.reason.includes(String(run.exit_code));
  const code =
    run.exit_code && !isSaid ? trans.__('exit code %1', run.exit_code) : '';
  const detail = run.detail || code;
  return detail ? `${run.reason} (${detail})` : run.reason;
}

function sumOf(runs: readonly IRunRow[], trans: ITranslate): string {
  const said: string[] = [];
  const add = (
    status: IRunRow['status'],
    say: (count: number, names: string) => string
  ) => {
    const names = runs
      .filter(run => run.status === status)
      .map(run => run.name);
    if (names.length) {
      const more = names.length > NAMES ? ', …' : '';
      said.push(say(names.length, names.slice(0, NAMES).join(', ') + more));
    }
  };
  add('failed', (count, names) => trans.__('%1 failed (%2)', count, names));
  add('done', (count, names) => trans.__('%1 done (%2)', count, names));
  add('terminated', (count, names) => trans.__('%1 ended (%2)', count, names));
  return trans.__('%1 runs have ended: %2', runs.length, said.join('; '));
}

function cut(text: string): string {
  return text.length > LONGEST ? `${text.slice(0, LONGEST - 1)}…` : text;
}
