import { ConfigError, loadConfig } from '@outbox/core';
import { goliothSettings } from './golioth-settings.ts';

/** What `loadConfig` complains about; empty when it does not. */
function complaint(env: Record<string, string>): string {
  try {
    loadConfig(goliothSettings, env);
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  return '';
}

test('nothing set means the local simulator, and no key', () => {
  expect(loadConfig(goliothSettings, {})).toEqual({
    GOLIOTH_PROVIDER: 'simulator',
    GOLIOTH_SIMULATOR_URL: 'http://127.0.0.1:4010/golioth',
    GOLIOTH_API_URL: 'https://api.golioth.io',
    GOLIOTH_TIMEOUT_MS: 10_000,
  });
});

test('a slash at the end of an address is nobody’s mistake', () => {
  expect(loadConfig(goliothSettings, { GOLIOTH_API_URL: 'https://golioth.example/api/' })).toMatchObject({
    GOLIOTH_API_URL: 'https://golioth.example/api',
  });
});

test.each([
  ['GOLIOTH_PROVIDER', 'bluetooth'],
  ['GOLIOTH_SIMULATOR_URL', 'ftp://127.0.0.1'],
  ['GOLIOTH_API_URL', 'golioth.example'],
  ['GOLIOTH_TIMEOUT_MS', '10s'],
  ['GOLIOTH_TIMEOUT_MS', '99'],
])('reports %s=%s by name, and does not repeat the value', (variable, value) => {
  expect(complaint({ [variable]: value })).toContain(variable);
  expect(complaint({ [variable]: value })).not.toContain(value);
});
