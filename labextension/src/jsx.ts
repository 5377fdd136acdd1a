/** What JSX is compiled to; short names of our own, for they stand in the page's code hundreds of times. */
import * as React from 'react';

export const h = React.createElement;
export const Fragment = React.Fragment;
