import js from '@eslint/js';
import { createTypeScriptImportResolver } from 'eslint-import-resolver-typescript';
import importX from 'eslint-plugin-import-x';
import { defineConfig } from 'eslint/config';
import tseslint from 'typescript-eslint';

/** Who may import whom (docs/architecture.md, "The rooms"). Each zone: nothing in `target` imports from `from`. */
const zones = [
  {
    target: './packages/core',
    from: [
      './packages/jobs',
      './packages/cli',
      './services',
      './infra',
      './simulators',
      './demo',
      './chaos',
      './bench',
    ],
  },
  { target: './packages/jobs', from: ['./packages/cli', './services', './infra', './demo', './chaos', './bench'] },
  { target: './packages/cli', from: ['./services', './infra', './demo', './chaos', './bench'] },
  {
    target: './services/bridge',
    from: ['./services/worker', './services/api', './infra', './demo', './chaos', './bench'],
  },
  {
    target: './services/worker',
    from: ['./services/bridge', './services/api', './infra', './demo', './chaos', './bench'],
  },
  {
    target: './services/api',
    from: ['./services/bridge', './services/worker', './infra', './demo', './chaos', './bench'],
  },
  { target: './e2e', from: ['./services', './packages/jobs'], message: 'e2e looks from outside.' },
  { target: './chaos', from: ['./services', './packages/jobs', './demo'], message: 'chaos looks from outside.' },
  { target: './bench', from: ['./services', './demo'], message: 'bench runs the services as processes.' },
];

/** Test helpers and simulators must not ship: only tests, the demo and benchmarks reach them. */
const productionCode = ['packages/{core,jobs,cli}/src/**/*.ts', 'services/*/src/**/*.ts', 'infra/postgres/src/**/*.ts'];

export default defineConfig(
  { ignores: ['**/dist/', '**/node_modules/', '.outbox/'] },
  js.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.recommendedTypeChecked, importX.flatConfigs.typescript],
    plugins: { 'import-x': importX },
    languageOptions: { parserOptions: { project: './tsconfig.json', tsconfigRootDir: import.meta.dirname } },
    settings: {
      'import-x/resolver-next': [createTypeScriptImportResolver({ project: './tsconfig.json' })],
    },
    rules: {
      'import-x/no-restricted-paths': ['error', { zones }],
      'import-x/no-cycle': 'error',
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-non-null-assertion': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': 'error',
      '@typescript-eslint/no-misused-promises': ['error', { checksVoidReturn: false }],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
    },
  },
  {
    files: productionCode,
    ignores: ['**/*.test.ts', '**/*.fixture.ts', '**/test-app.ts'],
    rules: {
      '@typescript-eslint/no-restricted-imports': [
        'error',
        { patterns: [{ group: ['@outbox/testing', '@outbox/simulators', '@outbox/local'] }] },
      ],
    },
  },
  {
    files: ['services/bridge/src/**/*.ts', 'services/api/src/**/*.ts', 'packages/cli/src/**/*.ts'],
    rules: {
      'no-restricted-imports': [
        'error',
        { paths: [{ name: '@outbox/jobs/handlers', message: 'Only the worker opens the handlers.' }] },
      ],
    },
  },
  {
    files: ['**/*.mjs', '*.js', '*.cjs'],
    languageOptions: {
      globals: {
        process: 'readonly',
        console: 'readonly',
        URL: 'readonly',
        setTimeout: 'readonly',
        setInterval: 'readonly',
        clearInterval: 'readonly',
      },
    },
  },
);
