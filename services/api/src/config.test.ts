import { loadConfig } from '@outbox/core';
import { apiSettings } from './config.ts';

const MINIMUM = {
  DATABASE_URL: 'postgres://outbox@db:5432/outbox',
  OUTBOX_INSTANCE: 'test',
  REDIS_URL: 'redis://redis:6379',
  SERVICE_KEYS: 'a-key-of-16-signs',
  BOARD_PASSWORD: 'eight-or-more',
  SESSION_SECRETS: 'x'.repeat(32),
};

describe('apiSettings', () => {
  it('needs nothing but the addresses and the secrets', () => {
    expect(loadConfig(apiSettings, MINIMUM)).toMatchObject({
      PORT: 4000,
      HOST: '0.0.0.0',
      SERVICE_KEYS: ['a-key-of-16-signs'],
      BOARD_USER: 'operator',
      SESSION_SECRETS: ['x'.repeat(32)],
      TRUSTED_PROXIES: 0,
      RATE_LIMIT_PER_MINUTE: 600,
    });
  });

  it('takes two service keys and two session secrets while they are being replaced', () => {
    const settings = loadConfig(apiSettings, {
      ...MINIMUM,
      SERVICE_KEYS: 'a-key-of-16-signs, another-of-16-sig',
      SESSION_SECRETS: `${'x'.repeat(32)},${'y'.repeat(32)}`,
    });
    expect(settings.SERVICE_KEYS).toEqual(['a-key-of-16-signs', 'another-of-16-sig']);
    expect(settings.SESSION_SECRETS).toEqual(['x'.repeat(32), 'y'.repeat(32)]);
  });

  it.each([
    ['SERVICE_KEYS', 'fifteen-signs--'],
    ['SERVICE_KEYS', 'a-key-of-16-signs,short'],
    ['SERVICE_KEYS', 'a-key-of-16-signs,'],
    ['SERVICE_KEYS', 'a-key-of-16-signs,b-key-of-16-signs,c-key-of-16-signs'],
    ['BOARD_PASSWORD', 'seven--'],
    ['SESSION_SECRETS', 'x'.repeat(31)],
  ])('names %s when it is %p, without showing it', (name, value) => {
    const load = () => loadConfig(apiSettings, { ...MINIMUM, [name]: value });
    expect(load).toThrow(new RegExp(`^${name}: [^;]+$`));
    expect(load).not.toThrow(value);
  });

  it.each([
    ['SERVICE_KEYS', undefined],
    ['BOARD_PASSWORD', undefined],
    ['SESSION_SECRETS', undefined],
    ['PUBLIC_URL', 'jobs.example.com'],
    ['PUBLIC_URL', 'ftp://jobs.example.com'],
    ['HOST', '127.0.0.1 4000'],
    ['TRUSTED_PROXIES', 'all'],
    ['RATE_LIMIT_PER_MINUTE', '0'],
  ])('names %s when it is %p', (name, value) => {
    const load = () => loadConfig(apiSettings, { ...MINIMUM, [name]: value });
    expect(load).toThrow(new RegExp(`^${name}: [^;]+$`));
  });

  it('describes every setting', () => {
    const undescribed = Object.entries(apiSettings.shape).filter(([, schema]) => !schema.description);
    expect(undescribed.map(([name]) => name)).toEqual([]);
  });
});
