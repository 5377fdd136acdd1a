/** Asks a model, through Jupyter's server, which knows the token; yields the answer as it comes. */
import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

import { NAMESPACE } from '../server';
import { partsOf } from './answers';
import { Ask, IAsked } from './conversation';
import { ChatFault, faultOf } from './faults';

const PATH = 'models/v1/chat/completions';

/** Return the way to ask through a server. */
export function askThrough(settings: ServerConnection.ISettings): Ask {
  return async function* (asked: IAsked, signal: AbortSignal) {
    const response = await send(settings, asked, signal);
    if (!response.ok) {
      throw faultOf(response.status, await response.text());
    }
    const isStream = /event-stream/.test(
      response.headers.get('Content-Type') ?? ''
    );
    yield* partsOf(chunksOf(response, signal), isStream);
  };
}

async function send(
  settings: ServerConnection.ISettings,
  asked: IAsked,
  signal: AbortSignal
): Promise<Response> {
  const url = URLExt.join(settings.baseUrl, NAMESPACE, PATH);
  const init: RequestInit = {
    method: 'POST',
    body: JSON.stringify({ ...asked, stream: true }),
    headers: {
      Accept: 'text/event-stream',
      'Content-Type': 'application/json'
    },
    signal
  };
  try {
    return await ServerConnection.makeRequest(url, init, settings);
  } catch (error) {
    throw broken(error, signal);
  }
}

async function* chunksOf(
  response: Response,
  signal: AbortSignal
): AsyncGenerator<string> {
  const reader = response.body?.getReader();
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const read = await reader?.read();
      if (!read || read.done) {
        return;
      }
      yield decoder.decode(read.value, { stream: true });
    }
  } catch (error) {
    throw broken(error, signal);
  } finally {
    void reader?.cancel().catch(() => undefined);
  }
}

function broken(error: unknown, signal: AbortSignal): unknown {
  return signal.aborted
    ? error
    : new ChatFault('The connection broke off.', 'network', 0);
}
