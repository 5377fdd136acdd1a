/** The sidebar: four sections, above them what is wrong if anything is. */
import { SidePanel } from '@jupyterlab/ui-components';
import { ITranslator } from '@jupyterlab/translation';
import { Message, MessageLoop } from '@lumino/messaging';
import { ISignal } from '@lumino/signaling';
import { AccordionPanel, Widget } from '@lumino/widgets';

import { dstackIcon } from '../icons';
import { MachinesSection, isLeaving } from './machines';
import { Notice } from './notice';
import { OffersSection } from './offers';
import { Clock } from './clock';
import { IParts } from './parts';
import { RunsSection } from './runs';
import { ServicesSection } from './services';

/** How the sections share the height at first. */
const SIZES = [0.34, 0.18, 0.24, 0.24];

/** Everything that runs, one glance away. */
export class Sidebar extends SidePanel {
  constructor(
    private readonly _parts: Omit<IParts, 'clock'>,
    translator: ITranslator
  ) {
    super({ translator });
    const { trans, model } = _parts;
    this.id = Sidebar.ID;
    this.addClass('jp-dstack-Sidebar');
    this.title.icon = dstackIcon;
    this.title.caption = trans.__('dstack');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', trans.__('dstack'));
    this._clock = new Clock(() => this.isVisible && this._goesOn());
    const parts: IParts = { ..._parts, clock: this._clock };
    this.header.addWidget(new Notice(parts));
    this._runs = new RunsSection(parts);
    for (const section of [
      this._runs,
      new ServicesSection(parts),
      new MachinesSection(parts),
      new OffersSection(parts)
    ]) {
      this._accordion.addWidget(section);
    }
    this._describe();
    this._headerWatch.observe(this.header.node);
    this._accordion.setRelativeSizes(SIZES);
    this._accordion.expansionToggled.connect(this._keepCollapsed, this);
    model.changed.connect(this._clock.check, this._clock);
  }

  /** Emitted with a run's name when its menu is about to open. */
  get menuOpens(): ISignal<unknown, string> {
    return this._runs.menuOpens;
  }

  /** Show everything as it was left the last time. */
  async restore(): Promise<void> {
    await this._parts.memory.load();
    if (this.isDisposed) {
      return;
    }
    const collapsed = this._parts.memory.list('collapsed');
    this._accordion.widgets.forEach((section, index) => {
      if (collapsed.includes(section.id)) {
        this._accordion.collapse(index);
      }
    });
    this._runs.restore();
  }

  /** Put the cursor into the filter of the runs. */
  focusFilter(): void {
    this._accordion.expand(0);
    this._runs.focusFilter();
  }

  /** Put the focus back to the run whose menu has closed. */
  focusCurrent(): void {
    this._runs.focusCurrent();
  }

  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this._parts.model.changed.disconnect(this._clock.check, this._clock);
    this._clock.dispose();
    this._headerWatch.disconnect();
    super.dispose();
  }

  protected onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    this._clock.check();
    void this._parts.model.refresh();
  }

  protected onAfterHide(msg: Message): void {
    super.onAfterHide(msg);
    this._clock.check();
  }

  protected onAfterAttach(msg: Message): void {
    super.onAfterAttach(msg);
    this._clock.check();
  }

  /** The headings are buttons that open and close; they are named as they read. */
  private _describe(): void {
    this._accordion.titles.forEach((title, index) => {
      title.setAttribute('role', 'button');
      title.setAttribute('aria-label', this._sections[index].title.label);
    });
  }

  private _keepCollapsed(): void {
    const hidden = this._sections.filter(section => section.isHidden);
    this._parts.memory.set(
      'collapsed',
      hidden.map(section => section.id)
    );
  }

  /** Whether time alone changes what is seen. */
  private _goesOn(): boolean {
    const { runs, machines } = this._parts.model;
    return runs.some(run => !run.finished) || machines.some(isLeaving);
  }

  private get _accordion(): AccordionPanel {
    return this.content as AccordionPanel;
  }

  private get _sections(): readonly Widget[] {
    return this._accordion.widgets;
  }

  /** What is above the sections comes and goes; they share what is left of the height. */
  private _headerWatch = new ResizeObserver(() => {
    if (this.isVisible) {
      MessageLoop.postMessage(this.content, Widget.ResizeMessage.UnknownSize);
    }
  });
  private _runs: RunsSection;
  private _clock: Clock;
}

/** What is known of every `Sidebar`. */
export namespace Sidebar {
  /** The id of the widget, for the shell. */
  export const ID = 'dstack-jupyter-sidebar';
}
