/** The problems that a cell's editor shows: underlined, their lines marked, told to all who ask. */
import {
  EditorState,
  Extension,
  StateEffect,
  StateField,
  Text
} from '@codemirror/state';
import {
  Command,
  Decoration,
  DecorationSet,
  EditorView,
  keymap,
  showTooltip,
  Tooltip
} from '@codemirror/view';

import { bubble } from './bubble';
import { IMark, markAfter, markAt } from './marks';

/** Replaces the marks of an editor. */
export const setMarks = StateEffect.define<readonly IMark[]>();

const tellMark = StateEffect.define<IMark | null>();

interface IShown {
  marks: readonly IMark[];
  decorations: DecorationSet;
}

const NONE: IShown = { marks: [], decorations: Decoration.none };

const WORD = Decoration.mark({ class: 'jp-dstack-Typing-wrong' });
const LINE = Decoration.line({ class: 'jp-dstack-Typing-wrongLine' });

const shown = StateField.define<IShown>({
  create: () => NONE,
  update: (value, change) => {
    for (const effect of change.effects) {
      if (effect.is(setMarks)) {
        return decorated(change.newDoc, effect.value);
      }
    }
    if (!change.docChanged || value === NONE) {
      return value;
    }
    const moved = value.marks.map(mark => ({
      ...mark,
      from: change.changes.mapPos(mark.from, 1),
      to: change.changes.mapPos(mark.to, -1)
    }));
    return decorated(
      change.newDoc,
      moved.filter(mark => mark.from < mark.to)
    );
  },
  provide: field => EditorView.decorations.from(field, of => of.decorations)
});

const told = StateField.define<Tooltip | null>({
  create: () => null,
  update: (value, change) => {
    for (const effect of change.effects) {
      if (effect.is(tellMark)) {
        return effect.value && tooltipOf(effect.value);
      }
    }
    return change.docChanged || change.selection ? null : value;
  },
  provide: field => showTooltip.from(field)
});

/** Return the marks of an editor; none for one that has no problems to show. */
export function marksIn(state: EditorState): readonly IMark[] {
  return state.field(shown, false)?.marks ?? [];
}

/** Return the mark at *place*, which somebody points at. */
export function markIn(state: EditorState, place: number): IMark | null {
  const mark = markAt(state.doc, marksIn(state), place);
  return mark && mark.from <= place && place <= mark.to ? mark : null;
}

/** Go to the next problem and tell what it is; false where there is none. */
export const nextProblem: Command = view => {
  const { state } = view;
  const { head } = state.selection.main;
  const told_ = state.field(told, false);
  const marks = marksIn(state);
  const here = told_ ? null : markAt(state.doc, marks, head);
  const mark = here ?? markAfter(marks, head);
  if (!mark) {
    return false;
  }
  view.dispatch({
    selection: { anchor: mark.from },
    effects: tellMark.of(mark),
    scrollIntoView: true
  });
  return true;
};

/** Return what shows problems, for an editor that `setMarks` tells of them. */
export function problems(): Extension {
  return [
    shown,
    told,
    keymap.of([{ key: 'F8', run: nextProblem }]),
    EditorView.domEventHandlers({
      blur: (_, view) => {
        if (view.state.field(told, false)) {
          view.dispatch({ effects: tellMark.of(null) });
        }
      }
    })
  ];
}

function decorated(doc: Text, marks: readonly IMark[]): IShown {
  if (marks.length === 0) {
    return NONE;
  }
  const lines = new Set(marks.map(mark => doc.lineAt(mark.from).from));
  return {
    marks,
    decorations: Decoration.set(
      [
        ...[...lines].map(from => LINE.range(from)),
        ...marks.map(mark => WORD.range(mark.from, mark.to))
      ],
      true
    )
  };
}

function tooltipOf(mark: IMark): Tooltip {
  return {
    pos: mark.from,
    end: mark.to,
    above: false,
    create: () => ({ dom: bubble({ problem: mark.message }) })
  };
}
