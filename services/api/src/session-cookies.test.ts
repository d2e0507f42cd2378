import { accessTokens } from './session-cookies.ts';

const SESSION = { access_token: 'header.claims.signature', refresh_token: 'r', user: { name: 'Zoë' } };
const JSON_TEXT = JSON.stringify(SESSION);
const BASE64 = `base64-${Buffer.from(JSON_TEXT).toString('base64url')}`;

/** As the library cuts a long value. */
function parts(value: string, count: number, name = 'sb-project-auth-token'): string {
  const size = Math.ceil(value.length / count);
  return Array.from({ length: count }, (_part, number) => {
    const part = value.slice(number * size, (number + 1) * size);
    return `${name}.${number}=${encodeURIComponent(part)}`;
  }).join('; ');
}

describe('accessTokens', () => {
  it.each([
    ['in base64', `sb-project-auth-token=${BASE64}`],
    ['as text', `sb-project-auth-token=${encodeURIComponent(JSON_TEXT)}`],
    [
      'as the list of its predecessor',
      `sb-project-auth-token=${encodeURIComponent(JSON.stringify(['header.claims.signature', 'r', null]))}`,
    ],
    ['in two parts', parts(BASE64, 2)],
    ['in twelve parts, in the order of their numbers', parts(BASE64, 12)],
    ['in parts that come in another order', parts(BASE64, 3).split('; ').reverse().join('; ')],
    ['in parts as text', parts(JSON_TEXT, 3)],
    ['among other cookies', `theme=dark; sb-project-auth-token=${BASE64};lang=en`],
    ['with a part behind a gap, left from a longer session', `${parts(BASE64, 2)}; sb-project-auth-token.3=old`],
    ['whole, with a part left from a longer session', `sb-project-auth-token.0=old; sb-project-auth-token=${BASE64}`],
    ['twice, of which the first counts', `sb-project-auth-token=${BASE64}; sb-project-auth-token=base64-e30`],
  ])('finds the token of a session %s', (_title, header) => {
    expect(accessTokens(header)).toEqual(['header.claims.signature']);
  });

  it('finds those of two sessions', () => {
    const other = parts(
      `base64-${Buffer.from('{"access_token": "b"}').toString('base64url')}`,
      2,
      'sb-other-auth-token',
    );
    expect(accessTokens(`sb-project-auth-token=${BASE64}; ${other}`)).toEqual(['header.claims.signature', 'b']);
  });

  it.each([
    ['nothing', ''],
    ['another cookie', `session=${BASE64}`],
    ['a name that only begins so', `sb-project-auth-token-code-verifier=${BASE64}`],
    ['a name that only ends so', `x-sb-project-auth-token=${BASE64}`],
    ['no first part', 'sb-project-auth-token.1=abc'],
    ['half of a session', parts(BASE64, 2).replace(/;.*/, '')],
    ['no base64', 'sb-project-auth-token=base64-%%%'],
    ['no JSON', 'sb-project-auth-token=%7Babc'],
    ['a malformed escape', 'sb-project-auth-token=%E0%A4%A'],
    ['no token', 'sb-project-auth-token=base64-e30'],
    ['a name without a value', 'sb-project-auth-token'],
  ])('finds none in %s', (_title, header) => {
    expect(accessTokens(header)).toEqual([]);
  });
});
