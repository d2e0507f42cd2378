import { ConfigError, loadConfig } from '@outbox/core';
import { startTwilioSimulator } from '@outbox/simulators';
import { checkSmsSettings, createSmsClient, smsSettings } from './sms-settings.ts';

const schema = smsSettings.superRefine(checkSmsSettings);
const ACCOUNT = { TWILIO_ACCOUNT_SID: `AC${'1'.repeat(32)}`, TWILIO_AUTH_TOKEN: 'secret-token' };
const SERVICE = `MG${'2'.repeat(32)}`;

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
    SMS_PROVIDER: 'simulator',
    SMS_SIMULATOR_URL: 'http://127.0.0.1:4010',
    SMS_TIMEOUT_MS: 10_000,
  });
});

test.each([
  ['SMS_PROVIDER', 'carrier-pigeon'],
  ['SMS_SIMULATOR_URL', 'ftp://127.0.0.1'],
  ['SMS_SIMULATOR_URL', 'localhost'],
  ['TWILIO_ACCOUNT_SID', `SK${'1'.repeat(32)}`],
  ['TWILIO_ACCOUNT_SID', 'AC123'],
  ['TWILIO_FROM', '555-1234'],
  ['TWILIO_MESSAGING_SERVICE_SID', `AC${'1'.repeat(32)}`],
  ['SMS_TIMEOUT_MS', '10s'],
  ['SMS_TIMEOUT_MS', '99'],
  ['SMS_TIMEOUT_MS', '30001'],
])('reports %s=%s by name, and does not repeat the value', (variable, value) => {
  expect(wrongVariables({ [variable]: value })).toEqual([variable]);
  expect(complaint({ [variable]: value })).not.toContain(value);
});

test('reports several bad variables at once', () => {
  const env = { SMS_PROVIDER: 'fax', TWILIO_FROM: '1', TWILIO_ACCOUNT_SID: 'x', SMS_TIMEOUT_MS: 'soon' };
  expect(wrongVariables(env).sort()).toEqual(Object.keys(env).sort());
});

test.each<[string, Record<string, string>, string[]]>([
  ['nothing', {}, ['TWILIO_ACCOUNT_SID', 'TWILIO_AUTH_TOKEN', 'TWILIO_FROM']],
  ['an account without a token', { ...ACCOUNT, TWILIO_AUTH_TOKEN: ' ' }, ['TWILIO_AUTH_TOKEN', 'TWILIO_FROM']],
  ['a token without an account', { ...ACCOUNT, TWILIO_ACCOUNT_SID: '' }, ['TWILIO_ACCOUNT_SID', 'TWILIO_FROM']],
  ['no sender', ACCOUNT, ['TWILIO_FROM']],
  ['two senders', { ...ACCOUNT, TWILIO_FROM: '+15558675310', TWILIO_MESSAGING_SERVICE_SID: SERVICE }, ['TWILIO_FROM']],
  ['a number', { ...ACCOUNT, TWILIO_FROM: '+15558675310' }, []],
  ['a Messaging Service', { ...ACCOUNT, TWILIO_MESSAGING_SERVICE_SID: SERVICE }, []],
])('SMS_PROVIDER=twilio with %s', (_title, env, wrong) => {
  expect(wrongVariables({ SMS_PROVIDER: 'twilio', ...env })).toEqual(wrong);
});

test('a missing and a malformed variable are reported together', () => {
  const env = { SMS_PROVIDER: 'twilio', ...ACCOUNT, TWILIO_AUTH_TOKEN: '', TWILIO_FROM: '555' };
  expect(wrongVariables(env).sort()).toEqual(['TWILIO_AUTH_TOKEN', 'TWILIO_FROM']);
});

test('every variable is described', () => {
  const undescribed = Object.entries(smsSettings.shape).filter(([, field]) => !field.description);
  expect(undescribed).toEqual([]);
});

test('the simulator receives the texts, and none of the real credentials', async () => {
  // Lets in the made-up account alone.
  const twilio = await startTwilioSimulator({ credentials: { [`AC${'0'.repeat(32)}`]: 'simulator' } });
  try {
    const settings = loadConfig(schema, { ...ACCOUNT, SMS_SIMULATOR_URL: twilio.url });
    const message = { to: '+15558675310', body: 'Hello' };
    const sid = await createSmsClient(settings).send(message, new AbortController().signal);
    expect(twilio.messages()).toMatchObject([{ ...message, sid }]);
  } finally {
    await twilio.close();
  }
});

test('the deadline of a call is SMS_TIMEOUT_MS', async () => {
  const twilio = await startTwilioSimulator();
  try {
    twilio.fault({ kind: 'delay', delayMs: 5_000 });
    const settings = loadConfig(schema, { SMS_SIMULATOR_URL: twilio.url, SMS_TIMEOUT_MS: '100' });
    const sending = createSmsClient(settings).send({ to: '+15558675310', body: 'Hello' }, new AbortController().signal);
    await expect(sending).rejects.toThrow('no answer within 100 ms');
  } finally {
    await twilio.close();
  }
});
