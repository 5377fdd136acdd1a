/** New notebooks: their cells, and the kernel that they name. */
import type { INotebookContent } from '@jupyterlab/nbformat';
import { KernelSpec } from '@jupyterlab/services';

type Cell = INotebookContent['cells'][0];

/** Return a notebook of *cells*, for a kernel of *spec* where one is known. */
export function notebook(
  spec: KernelSpec.ISpecModel | null | undefined,
  cells: Cell[]
): INotebookContent {
  const metadata = spec && {
    kernelspec: {
      name: spec.name,
      display_name: spec.display_name,
      language: spec.language
    },
    language_info: { name: spec.language }
  };
  return { nbformat: 4, nbformat_minor: 5, metadata: metadata ?? {}, cells };
}

/** Return the cell that loads the extension. */
export function load(): Cell {
  return code('load', '%load_ext dstack_jupyter');
}

/** Return a cell of text. */
export function text(id: string, source: string): Cell {
  return { cell_type: 'markdown', id, metadata: {}, source };
}

/** Return a cell of code that was never run. */
export function code(id: string, source: string): Cell {
  return {
    cell_type: 'code',
    id,
    metadata: {},
    source,
    execution_count: null,
    outputs: []
  };
}
