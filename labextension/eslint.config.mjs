import js from '@eslint/js';
import ts from 'typescript-eslint';

export default ts.config(js.configs.recommended, ...ts.configs.recommended, {
  languageOptions: {
    parserOptions: { jsxPragma: 'h', jsxFragmentName: 'Fragment' }
  },
  rules: {
    '@typescript-eslint/no-explicit-any': 'off',
    '@typescript-eslint/no-namespace': 'off',
    '@typescript-eslint/no-unused-vars': ['error', { args: 'none' }],
    curly: ['error', 'all'],
    eqeqeq: 'error',
    'no-console': 'error'
  }
});
