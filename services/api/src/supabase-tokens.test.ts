import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { MINUTE, portOf, type Pool } from '@outbox/core';
import { captureLogs, createTestDatabase, type TestDatabase } from '@outbox/testing';
import { exportJWK, exportSPKI, generateKeyPair, UnsecuredJWT, type JWTPayload } from 'jose';
import { createUserTokenReader } from './supabase-tokens.ts';
import { createApiPool, SERVICE_KEY, startTestApp, type TestApp } from './test-app.ts';
import { ISSUER, JWT_SECRET, keyClaims, NEXT_JWT_SECRET, sign, userClaims, withSecrets } from './tokens.fixture.ts';

let database: TestDatabase;
let pool: Pool;

beforeAll(async () => {
  database = await createTestDatabase();
  pool = createApiPool(database.url);
});

afterAll(async () => {
  await pool.end();
  await database.drop();
});

async function serve(settings: Partial<typeof withSecrets> = {}): Promise<TestApp> {
  return startTestApp({ db: pool, log: captureLogs().log, settings: { ...withSecrets, ...settings } });
}

/** 404: let in, and there is no such job. 403: let in as a user, who may not see effects. */
async function statusesFor(app: TestApp, headers: Record<string, string>): Promise<number[]> {
  const paths = [`/api/jobs/${randomUUID()}`, '/api/effects'];
  const answers = await Promise.all(paths.map((path) => fetch(app.url + path, { headers })));
  return Promise.all(answers.map(async (answer) => (await answer.text(), answer.status)));
}

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
const AS_SERVICE = [404, 200];
const AS_USER = [404, 403];
const AS_NOBODY = [401, 401];

describe('a token signed with the secret of the project', () => {
  let app: TestApp;
  beforeAll(async () => void (app = await serve()));
  afterAll(() => app.stop());

  it.each([JWT_SECRET, NEXT_JWT_SECRET])('with role service_role is a service, signed with %s', async (secret) => {
    const token = await sign(keyClaims('service_role'), secret);
    expect(await statusesFor(app, bearer(token))).toEqual(AS_SERVICE);
    expect(await statusesFor(app, { apikey: token })).toEqual(AS_SERVICE);
  });

  it.each([JWT_SECRET, NEXT_JWT_SECRET])('of a signed-in user is that user, signed with %s', async (secret) => {
    expect(await statusesFor(app, bearer(await sign(userClaims(), secret)))).toEqual(AS_USER);
  });

  it('of a user comes before the key that goes along as apikey, as at Supabase', async () => {
    const headers = { ...bearer(await sign(userClaims())), apikey: SERVICE_KEY };
    expect(await statusesFor(app, headers)).toEqual(AS_USER);
  });

  it('with the role admin in app_metadata is an admin, in user_metadata it is not', async () => {
    const [admin, user] = [
      await sign(userClaims({ app_metadata: { role: 'admin' } })),
      await sign(userClaims({ user_metadata: { role: 'admin' } })),
    ];
    expect(await statusesFor(app, bearer(admin))).toEqual(AS_SERVICE);
    expect(await statusesFor(app, bearer(user))).toEqual(AS_USER);
  });

  it.each(['authorization', 'apikey'])('that is the public anon key is nobody, as %s', async (header) => {
    const anon = await sign(keyClaims('anon'));
    const headers = header === 'apikey' ? { apikey: anon } : bearer(anon);
    expect(await statusesFor(app, headers)).toEqual(AS_NOBODY);
  });

  const past = Math.floor(Date.now() / 1000) - 10;
  it.each<[string, JWTPayload]>([
    ['has ended', { exp: past }],
    ['never ends', { exp: undefined }],
    ['begins later', { nbf: past + 3600 }],
    ['comes from another issuer', { iss: 'https://other.supabase.test/auth/v1' }],
    ['names no issuer', { iss: undefined }],
    ['is for somebody else', { aud: 'other' }],
    ['is for nobody', { aud: undefined }],
    ['names no user', { sub: undefined }],
    ['names a user by something else than a uuid', { sub: 'me' }],
    ['has the role anon', { role: 'anon' }],
    ['has a role that we do not know', { role: 'manager' }],
    ['has no role', { role: undefined }],
  ])('of a user that %s is nobody', async (_title, claims) => {
    expect(await statusesFor(app, bearer(await sign(userClaims(claims))))).toEqual(AS_NOBODY);
  });

  it('of a service that has ended is nobody', async () => {
    const token = await sign({ ...keyClaims('service_role'), exp: past });
    expect(await statusesFor(app, bearer(token))).toEqual(AS_NOBODY);
  });

  it('is nobody when another secret signed it, another algorithm, or nothing', async () => {
    for (const claims of [keyClaims('service_role'), userClaims()]) {
      const tokens = [
        await sign(claims, 'the-secret-of-quite-another-project-'),
        await sign(claims, JWT_SECRET, { alg: 'HS512' }),
        await sign(claims, JWT_SECRET, { alg: 'HS384' }),
        new UnsecuredJWT(claims).encode(),
        `${await sign(claims)}x`,
        (await sign(claims)).replace(/[^.]+$/, ''),
      ];
      for (const token of tokens) expect(await statusesFor(app, bearer(token))).toEqual(AS_NOBODY);
    }
  });

  it('is nobody where the settings name no secret', async () => {
    const other = await serve({ SUPABASE_JWT_SECRET: undefined, SUPABASE_JWT_ISSUER: undefined });
    for (const claims of [keyClaims('service_role'), userClaims()]) {
      expect(await statusesFor(other, bearer(await sign(claims)))).toEqual(AS_NOBODY);
    }
    await other.stop();
  });
});

describe('a token signed with a key that the project publishes', () => {
  /** Publishes one key of each kind, and counts how often it is asked. */
  async function publishKeys() {
    const es256 = await generateKeyPair('ES256', { extractable: true });
    const rs256 = await generateKeyPair('RS256', { extractable: true });
    const keys = [
      { ...(await exportJWK(es256.publicKey)), kid: 'e', alg: 'ES256', use: 'sig' },
      { ...(await exportJWK(rs256.publicKey)), kid: 'r', alg: 'RS256', use: 'sig' },
    ];
    const state = { asked: 0, answer: JSON.stringify({ keys }), status: 200 };
    const server = createServer((_request, response) => {
      state.asked += 1;
      response.writeHead(state.status, { 'content-type': 'application/json' }).end(state.answer);
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const stop = async () => {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    };
    return { es256, rs256, state, stop, url: `http://127.0.0.1:${portOf(server)}/jwks.json` };
  }

  let published: Awaited<ReturnType<typeof publishKeys>>;
  let app: TestApp;
  beforeAll(async () => {
    published = await publishKeys();
    app = await serve({ SUPABASE_JWKS_URL: published.url });
  });
  afterAll(async () => {
    await app.stop();
    await published.stop();
  });

  it('is the user it names, whichever of the keys signed it', async () => {
    const { es256, rs256 } = published;
    const tokens = [
      await sign(userClaims(), es256.privateKey, { alg: 'ES256', kid: 'e' }),
      await sign(userClaims(), rs256.privateKey, { alg: 'RS256', kid: 'r' }),
    ];
    for (const token of tokens) expect(await statusesFor(app, bearer(token))).toEqual(AS_USER);
  });

  it('is nobody when it has ended, is for somebody else, or comes from another issuer', async () => {
    for (const claims of [{ exp: 1 }, { aud: 'other' }, { iss: `${ISSUER}/` }]) {
      const token = await sign(userClaims(claims), published.es256.privateKey, { alg: 'ES256', kid: 'e' });
      expect(await statusesFor(app, bearer(token))).toEqual(AS_NOBODY);
    }
  });

  it('is never a service, whatever role it claims', async () => {
    const claims = { ...userClaims(), role: 'service_role' };
    const token = await sign(claims, published.es256.privateKey, { alg: 'ES256', kid: 'e' });
    expect(await statusesFor(app, bearer(token))).toEqual(AS_NOBODY);
  });

  it('is asked for: a token that says it is signed with the secret is no user, with the public key as secret neither', async () => {
    const publicKey = await exportSPKI(published.rs256.publicKey);
    for (const secret of [JWT_SECRET, publicKey]) {
      for (const header of [{ alg: 'HS256' }, { alg: 'HS256', kid: 'r' }]) {
        expect(await statusesFor(app, bearer(await sign(userClaims(), secret, header)))).toEqual(AS_NOBODY);
      }
    }
  });

  it('leaves service keys signed with the secret what they are', async () => {
    expect(await statusesFor(app, bearer(await sign(keyClaims('service_role'))))).toEqual(AS_SERVICE);
    expect(await statusesFor(app, bearer(await sign(keyClaims('anon'))))).toEqual(AS_NOBODY);
  });

  it('is nobody when a key signed it that is not published', async () => {
    const other = await generateKeyPair('ES256');
    for (const kid of ['e', 'unknown']) {
      const token = await sign(userClaims(), other.privateKey, { alg: 'ES256', kid });
      expect(await statusesFor(app, bearer(token))).toEqual(AS_NOBODY);
    }
  });

  it.each<[string, { status?: number; answer?: string }]>([
    ['fails', { status: 500 }],
    ['answers no JSON', { answer: '<html>' }],
    ['answers no keys', { answer: '{"error": "x"}' }],
  ])('is 503 with Retry-After while the address of the keys %s; service keys are not', async (_title, fault) => {
    const broken = await publishKeys();
    Object.assign(broken.state, fault);
    const other = await serve({ SUPABASE_JWKS_URL: broken.url });
    const token = await sign(userClaims(), broken.es256.privateKey, { alg: 'ES256', kid: 'e' });
    const answer = await fetch(`${other.url}/api/effects`, { headers: bearer(token) });
    const body = await answer.text();
    const service = await statusesFor(other, bearer(SERVICE_KEY));
    await other.stop();
    await broken.stop();
    expect(answer.status).toBe(503);
    expect(answer.headers.get('retry-after')).toBe('5');
    expect(body).not.toContain('127.0.0.1');
    expect(service).toEqual(AS_SERVICE);
  });

  it('is 503 while nobody answers at the address of the keys', async () => {
    const gone = await publishKeys();
    await gone.stop();
    const other = await serve({ SUPABASE_JWKS_URL: gone.url });
    const token = await sign(userClaims(), gone.es256.privateKey, { alg: 'ES256', kid: 'e' });
    const statuses = await statusesFor(other, bearer(token));
    await other.stop();
    expect(statuses).toEqual([503, 503]);
  });

  it('is checked with keys that are asked for once in ten minutes, and not kept for longer', async () => {
    const keys = await publishKeys();
    const read = createUserTokenReader({ ...withSecrets, SUPABASE_JWKS_URL: keys.url });
    const token = await sign(userClaims(), keys.es256.privateKey, { alg: 'ES256', kid: 'e' });
    const now = jest.spyOn(Date, 'now');
    const startedAt = Date.now();
    const askedAt: Record<number, number> = {};
    for (const minutes of [0, 9, 11, 12]) {
      now.mockReturnValue(startedAt + minutes * MINUTE);
      expect(await read(token)).toMatchObject({ kind: 'user' });
      askedAt[minutes] = keys.state.asked;
    }
    now.mockRestore();
    await keys.stop();
    expect(askedAt).toEqual({ 0: 1, 9: 1, 11: 2, 12: 2 });
  });
});
