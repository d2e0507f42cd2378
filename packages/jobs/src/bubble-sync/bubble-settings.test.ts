import { ConfigError, loadConfig } from '@outbox/core';
import { bubbleSettings, checkBubbleSettings } from './bubble-settings.ts';

const schema = bubbleSettings.superRefine(checkBubbleSettings);
const APP = { BUBBLE_APP_URL: 'https://app.bubbleapps.io/version-test', BUBBLE_API_TOKEN: 'secret-token' };

/** What `loadConfig` complains about; empty when it does not. */
function complaint(env: Record<string, string>): string {
  try {
    loadConfig(schema, env);
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  return '';
}

/** Names of the variables it complains about. */
function wrongVariables(env: Record<string, string>): string[] {
  const issues = complaint(env).split('; ');
  return issues.map((issue) => issue.slice(0, issue.indexOf(':'))).filter((name) => name !== '');
}

test('nothing set means the local simulator', () => {
  expect(loadConfig(schema, {})).toEqual({
    BUBBLE_PROVIDER: 'simulator',
    BUBBLE_SIMULATOR_URL: 'http://127.0.0.1:4010/bubble',
    BUBBLE_DATA_TYPE: 'user',
    BUBBLE_ID_FIELD: 'external_id',
    BUBBLE_EMAIL_FIELD: 'email',
    BUBBLE_TIMEOUT_MS: 10_000,
  });
});

test.each([
  ['BUBBLE_PROVIDER', 'airtable'],
  ['BUBBLE_SIMULATOR_URL', 'ftp://127.0.0.1'],
  ['BUBBLE_APP_URL', 'http://app.example.com'],
  ['BUBBLE_APP_URL', 'my-app'],
  ['BUBBLE_APP_URL', 'https://app.example.com/api/1.1'],
  ['BUBBLE_DATA_TYPE', 'Rental Unit'],
  ['BUBBLE_TIMEOUT_MS', '10s'],
  ['BUBBLE_TIMEOUT_MS', '10001'],
])('reports %s=%s by name, and does not repeat the value', (variable, value) => {
  expect(wrongVariables({ [variable]: value })).toEqual([variable]);
  expect(complaint({ [variable]: value })).not.toContain(value);
});

test('a real app needs its address and its token, and each that is missing is named', () => {
  expect(wrongVariables({ BUBBLE_PROVIDER: 'bubble' })).toEqual(['BUBBLE_APP_URL', 'BUBBLE_API_TOKEN']);
  expect(wrongVariables({ BUBBLE_PROVIDER: 'bubble', ...APP })).toEqual([]);
});

test('the simulator needs none of them', () => {
  expect(wrongVariables({ BUBBLE_PROVIDER: 'simulator' })).toEqual([]);
});
