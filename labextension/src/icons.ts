/** The pictures of this extension; their colours follow the theme. */
import { LabIcon } from '@jupyterlab/ui-components';

const DSTACK = `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3 jp-icon-selectable" fill="#616161">
    <path d="M12 2.5 2 7.5l10 5 10-5z"/>
    <path d="m5.1 10.4-3.1 1.6 10 5 10-5-3.1-1.6-6.9 3.5z"/>
    <path d="m5.1 14.9-3.1 1.6 10 5 10-5-3.1-1.6-6.9 3.5z"/>
  </g>
</svg>`;

/** Three layers: the sidebar's tab, the launcher's card, the settings. */
export const dstackIcon = new LabIcon({
  name: 'dstack-jupyter:dstack',
  svgstr: DSTACK
});
