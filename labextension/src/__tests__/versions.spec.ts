import { nullTranslator } from '@jupyterlab/translation';
import { expect, test } from 'vitest';

import { compareVersions, mismatch } from '../versions';

const trans = nullTranslator.load('dstack_jupyter');

test('versions are compared by their numbers', () => {
  const sorted = ['0.9.0', '0.10.0', '0.10', '1.0.0', '0.9.1'].sort(
    compareVersions
  );
  expect(sorted).toEqual(['0.9.0', '0.9.1', '0.10', '0.10.0', '1.0.0']);
  expect(compareVersions('1.2.3', '1.2.3')).toBe(0);
  expect(compareVersions('1.2.3', '1.2.3.dev1')).toBeLessThan(0);
});

test('equal versions are not spoken of', () => {
  expect(mismatch('0.1.0', '0.1.0', trans)).toBeNull();
});

test('an old page is told to reload, an old server to be restarted', () => {
  expect(mismatch('0.1.0', '0.2.0', trans)).toBe(
    'dstack-jupyter: this page is still version 0.1.0, the server has 0.2.0. Reload the page.'
  );
  expect(mismatch('0.2.0', '0.1.0', trans)).toBe(
    'dstack-jupyter: this page is version 0.2.0, the server is still 0.1.0. Restart Jupyter.'
  );
});
