import { checkGoogleSettings, createGoogle, googleSettings } from './google-settings.ts';

const schema = googleSettings.superRefine(checkGoogleSettings);
const problems = (env: Record<string, string>) =>
  schema.safeParse(env).error?.issues.map(({ path, message }) => [path.join('.'), message]);

test('without a word the simulator is called, and no credential is needed', () => {
  const settings = schema.parse({});
  expect(settings).toMatchObject({ GOOGLE_PROVIDER: 'simulator', GOOGLE_TIMEOUT_MS: 15_000 });
  expect(createGoogle(settings)).toBeDefined();
});

test('google needs the client and its secret, and both are named', () => {
  expect(problems({ GOOGLE_PROVIDER: 'google' })).toEqual([
    ['GOOGLE_CLIENT_ID', 'is missing: GOOGLE_PROVIDER=google needs it'],
    ['GOOGLE_CLIENT_SECRET', 'is missing: GOOGLE_PROVIDER=google needs it'],
  ]);
  const settings = schema.parse({ GOOGLE_PROVIDER: 'google', GOOGLE_CLIENT_ID: 'a', GOOGLE_CLIENT_SECRET: 'b' });
  expect(settings.GOOGLE_TOKEN_URL).toBe('https://oauth2.googleapis.com/token');
  expect(createGoogle(settings)).toBeDefined();
});

test.each([
  ['GOOGLE_PROVIDER', 'microsoft'],
  ['GOOGLE_SIMULATOR_URL', '127.0.0.1:4010'],
  ['GOOGLE_TOKEN_URL', 'ftp://host/token'],
  ['GOOGLE_TIMEOUT_MS', '99'],
])('a bad %s (%s) is refused by name', (name, value) => {
  expect(problems({ [name]: value })?.map(([variable]) => variable)).toEqual([name]);
});
