import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';

/** ES modules become CommonJS, import.meta included. */
const toCommonJs = (syntax) => [
  '@swc/jest',
  { swcrc: false, jsc: { parser: { syntax }, target: 'es2022' }, module: { type: 'commonjs' } },
];

/**
 * Jest over the TypeScript sources. What runs outside the tests (the set-up, the environment, the reporter) is loaded by
 * Node and not by Jest, so it comes from `dist`: `npm test` builds first.
 */
export default {
  rootDir: dirname(fileURLToPath(import.meta.url)),
  roots: ['packages', 'services', 'infra', 'simulators', 'demo', 'chaos', 'model', 'e2e'].map(
    (folder) => `<rootDir>/${folder}`,
  ),
  testMatch: ['**/*.test.ts'],
  testPathIgnorePatterns: ['/node_modules/', '/dist/'],
  watchPathIgnorePatterns: ['/dist/'],
  watchman: false,

  // Of the dependencies only jose is for ES modules only, which Jest cannot load itself before Node 24.9.
  transform: { '\\.ts$': toCommonJs('typescript'), 'node_modules/jose/.+\\.js$': toCommonJs('ecmascript') },
  transformIgnorePatterns: ['/node_modules/(?!jose/)'],

  testEnvironment: '<rootDir>/packages/testing/dist/test-environment.js',
  // Our packages resolve to their sources.
  testEnvironmentOptions: { customExportConditions: ['@outbox/source', 'node', 'require', 'default'] },
  globalSetup: '<rootDir>/packages/testing/dist/global-setup.js',
  globalTeardown: '<rootDir>/packages/testing/dist/global-teardown.js',
  reporters: ['default', '<rootDir>/packages/testing/dist/reporter.js'],

  maxWorkers: 2,
  testTimeout: 20_000,
};
