/** The notebook to begin with: a task and a service, each in one cell. */
import type { INotebookContent } from '@jupyterlab/nbformat';
import { KernelSpec } from '@jupyterlab/services';
import { TranslationBundle } from '@jupyterlab/translation';

import { code, load, notebook, text } from './notebooks';

const TASK = `%%dstack task --name hello -y
commands:
  - echo "Hello from $DSTACK_RUN_NAME"
  - sleep 30
max_duration: 10m`;

const SERVICE = `%%dstack service --name page -y
commands:
  - mkdir -p page
  - echo "Hello from a service" > page/index.html
  - python3 -m http.server --directory page $DSTACK_SERVICE_PORT
port: 8000
auth: false`;

/** Return the notebook, for a kernel of *spec* where one is known. */
export function templateNotebook(
  trans: TranslationBundle,
  spec: KernelSpec.ISpecModel | null
): INotebookContent {
  return notebook(spec, [
    text(
      'about',
      trans.__(
        '# Runs from a notebook\n\nA cell that begins with `%1` says what should run. The run goes on when the kernel restarts; the sidebar lists it, with its log and its ports.',
        '%%dstack' // as a value, for a text's own %% becomes one
      )
    ),
    load(),
    text(
      'about-task',
      trans.__(
        '## A task runs and ends\n\n`-y` takes the best offer; without it you choose one in a table.'
      )
    ),
    code('task', TASK),
    text(
      'about-service',
      trans.__(
        '## A service stays and answers\n\nIts card has the address. `auth: false` lets in everybody who reaches this computer’s own ports, as a browser does; without it a request needs your token.'
      )
    ),
    code('service', SERVICE)
  ]);
}
