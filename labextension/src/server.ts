/**
 * Asks the server extension: one way to send, one way to tell what went wrong.
 *
 * Every feature of the page comes through here, and only to `/dstack-jupyter/…` below Jupyter's
 * own address and login.
 */
import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

import { IRefusal } from './records';
import { Trouble } from './tokens';

/** Where the server extension lives, below Jupyter's base URL. */
export const NAMESPACE = 'dstack-jupyter';

/** A line longer than this is no answer of ours. */
const LONGEST_LINE = 4_000_000;

/** The server answered, and the answer is no. */
export class Refused extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly hint: string | null,
    /** The engine's word for what is wrong; empty where Jupyter itself refused. */
    readonly code: string
  ) {
    super(message);
    this.name = 'Refused';
  }
}

/** Return the server's answer to a request of *path*, which may carry a query; else throw. */
export async function request<T>(
  settings: ServerConnection.ISettings,
  path: string,
  init: RequestInit = {}
): Promise<T> {
  return read<T>(await answer(settings, path, init));
}

/** Return the server's answer with the server's time, in milliseconds, where it tells. */
export async function timed<T>(
  settings: ServerConnection.ISettings,
  path: string
): Promise<{ value: T; at: number | null }> {
  const response = await answer(settings, path, {});
  const at = Date.parse(response.headers.get('Date') ?? '');
  return { value: await read<T>(response), at: Number.isNaN(at) ? null : at };
}

/** Send *body* as JSON with POST, and return the answer. */
export function post<T>(
  settings: ServerConnection.ISettings,
  path: string,
  body: unknown = {}
): Promise<T> {
  return request<T>(settings, path, {
    method: 'POST',
    body: JSON.stringify(body)
  });
}

/** Yield the lines of an NDJSON answer as they come, until it ends or *signal* aborts it. */
export async function* stream<T>(
  settings: ServerConnection.ISettings,
  path: string,
  options: { signal?: AbortSignal } & RequestInit = {}
): AsyncGenerator<T> {
  const response = await answer(settings, path, options);
  const reader = response.body?.getReader();
  if (!reader) {
    return;
  }
  const decoder = new TextDecoder();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      const lines = (rest + decoder.decode(value, { stream: !done })).split(
        '\n'
      );
      rest = done ? '' : (lines.pop() ?? '');
      for (const line of lines) {
        if (line.trim() !== '') {
          yield JSON.parse(line) as T;
        }
      }
      if (done) {
        return;
      }
      if (rest.length > LONGEST_LINE) {
        throw new Refused('A line of the answer is too long.', 502, null, '');
      }
    }
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}

/** Return what kind of trouble *error* is, so that the page can say what to do. */
export function troubleOf(error: unknown): Trouble {
  if (
    error instanceof ServerConnection.NetworkError ||
    error instanceof TypeError
  ) {
    return { kind: 'network' };
  }
  if (!(error instanceof Refused)) {
    return { kind: 'failed', message: String(error), hint: null };
  }
  if (error.code === 'engine-down') {
    return { kind: 'engine-down' };
  }
  if (error.code === '') {
    switch (error.status) {
      case 404:
        return { kind: 'not-installed' };
      case 401:
      case 403:
        return { kind: 'not-authorised' };
      case 502:
      case 503:
      case 504:
        // A hub or a proxy answers so while the server behind it is gone.
        return { kind: 'network' };
    }
  }
  return { kind: 'failed', message: error.message, hint: error.hint };
}

async function read<T>(response: Response): Promise<T> {
  const text = await response.text();
  if (text === '') {
    return undefined as T;
  }
  try {
    return JSON.parse(text) as T;
  } catch {
    throw new Refused('The answer of the server is no JSON.', 502, null, '');
  }
}

async function answer(
  settings: ServerConnection.ISettings,
  path: string,
  init: RequestInit
): Promise<Response> {
  const url = URLExt.join(settings.baseUrl, NAMESPACE, path);
  const response = await ServerConnection.makeRequest(url, init, settings);
  if (!response.ok) {
    throw await refusalOf(response);
  }
  return response;
}

async function refusalOf(response: Response): Promise<Refused> {
  let refusal: Partial<IRefusal> = {};
  try {
    refusal = (await response.json()) as Partial<IRefusal>;
  } catch {
    // A page of Jupyter or of a proxy in between: the status says enough.
  }
  const word = (value: unknown) => (typeof value === 'string' ? value : '');
  return new Refused(
    word(refusal.message) || `${response.status} ${response.statusText}`,
    response.status,
    word(refusal.hint) || null,
    word(refusal.code)
  );
}
