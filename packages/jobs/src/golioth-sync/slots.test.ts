import { SQLSTATE } from '@outbox/core';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';

let database: TestDatabase;
beforeAll(async () => void (database = await createTestDatabase()));
afterAll(() => database.drop());

interface Rule {
  after: string;
  every: number;
  window?: readonly [string | null, string | null];
  zone?: string;
  createdAt?: string;
}

const NEXT = /* sql */ `
  select golioth.next_slot(
    after => $1, created_at => $2, frequency_minutes => $3, window_start => $4, window_end => $5, timezone => $6
  ) as slot`;

/** In UTC to the second, `2026-03-08 07:00:00`. */
async function next({ after, every, window, zone = 'UTC', createdAt = '2026-01-01Z' }: Rule): Promise<string> {
  const [start, end] = window ?? [null, null];
  const { rows } = await database.pool.query<{ slot: Date }>(NEXT, [after, createdAt, every, start, end, zone]);
  return (rows[0]?.slot.toISOString() ?? '').replace('T', ' ').slice(0, 19);
}

/** The slots after `after` up to `until`, both in UTC. */
async function slots(rule: Rule, until: string): Promise<string[]> {
  const found: string[] = [];
  for (let at = await next(rule); at <= until; at = await next({ ...rule, after: `${at}Z` })) found.push(at);
  return found;
}

describe('without a window', () => {
  test.each([
    ['the first slot is a frequency after created_at', '2026-01-01 12:00:00Z', '2026-01-01 12:05:00'],
    ['a slot is not its own next one', '2026-01-01 12:05:00Z', '2026-01-01 12:10:00'],
    ['a run that starts late changes nothing', '2026-01-01 12:14:59.9Z', '2026-01-01 12:15:00'],
    ['before created_at it is the first', '2025-12-24 00:00:00Z', '2026-01-01 12:00:00'],
  ])('%s', async (_rule, after, expected) => {
    expect(await next({ after, every: 5, createdAt: '2026-01-01 12:00:00.7Z' })).toBe(expected);
  });

  test('slots keep the second of created_at, and are apart by elapsed time when clocks change', async () => {
    const rule = { every: 60, zone: 'Europe/Berlin', createdAt: '2026-01-01 00:00:07Z' };
    expect(await slots({ ...rule, after: '2026-03-29 00:00Z' }, '2026-03-29 03:00:00')).toEqual([
      '2026-03-29 00:00:07',
      '2026-03-29 01:00:07',
      '2026-03-29 02:00:07',
    ]);
  });

  test('a frequency of centuries is no trouble', async () => {
    expect(await next({ after: '2026-01-02Z', every: 2_147_483_647 })).toBe('6109-01-24 02:07:00');
  });
});

describe('with a window', () => {
  test.each<[string, Rule, string[]]>([
    [
      'slots count from its start; its end is not in it',
      { after: '2026-06-01Z', every: 20, window: ['09:30', '10:30'] },
      ['2026-06-01 09:30:00', '2026-06-01 09:50:00', '2026-06-01 10:10:00', '2026-06-02 09:30:00'],
    ],
    [
      'one that crosses midnight counts on into the next day',
      { after: '2026-06-01 12:00Z', every: 90, window: ['22:00', '02:00'] },
      ['2026-06-01 22:00:00', '2026-06-01 23:30:00', '2026-06-02 01:00:00', '2026-06-02 22:00:00'],
    ],
    [
      'with equal sides lasts all day, and begins anew each day: 7 h do not fit 24 h',
      { after: '2026-06-01 05:00Z', every: 420, window: ['06:00', '06:00'] },
      [
        '2026-06-01 06:00:00',
        '2026-06-01 13:00:00',
        '2026-06-01 20:00:00',
        '2026-06-02 03:00:00',
        '2026-06-02 06:00:00',
      ],
    ],
    [
      'a frequency longer than it runs once a day, at its start',
      { after: '2026-06-01Z', every: 300, window: ['09:00', '10:00'] },
      ['2026-06-01 09:00:00', '2026-06-02 09:00:00'],
    ],
    [
      'so does a frequency longer than a day',
      { after: '2026-06-01Z', every: 10_080, window: ['09:00', '10:00'] },
      ['2026-06-01 09:00:00', '2026-06-02 09:00:00'],
    ],
    [
      'without an end it ends at midnight',
      { after: '2026-06-01 12:00Z', every: 60, window: ['22:00', null] },
      ['2026-06-01 22:00:00', '2026-06-01 23:00:00', '2026-06-02 22:00:00'],
    ],
    [
      'without a start it begins at midnight',
      { after: '2026-06-01 12:00Z', every: 60, window: [null, '02:00'] },
      ['2026-06-02 00:00:00', '2026-06-02 01:00:00', '2026-06-03 00:00:00'],
    ],
    [
      'may end at 24:00, and has seconds',
      { after: '2026-06-01 23:00Z', every: 30, window: ['23:00:05', '24:00'] },
      ['2026-06-01 23:00:05', '2026-06-01 23:30:05', '2026-06-02 23:00:05'],
    ],
    [
      'is local: half an hour of Kolkata is another half hour of UTC',
      { after: '2026-06-01Z', every: 60, window: ['09:00', '11:00'], zone: 'Asia/Kolkata' },
      ['2026-06-01 03:30:00', '2026-06-01 04:30:00', '2026-06-02 03:30:00'],
    ],
  ])('%s', async (_rule, rule, expected) => {
    expect(await slots(rule, expected.at(-1) ?? '')).toEqual(expected);
  });
});

describe('when clocks go forward, times they leave out are the first instant after the gap, once', () => {
  test.each<[string, Rule, string[]]>([
    [
      'New York, 8 March 2026, 02:00 to 03:00: the slots at 02:00, 02:30 and 03:00 are one',
      { after: '2026-03-08 06:00Z', every: 30, window: ['01:00', '04:00'], zone: 'America/New_York' },
      ['2026-03-08 06:30:00', '2026-03-08 07:00:00', '2026-03-08 07:30:00', '2026-03-09 05:00:00'],
    ],
    [
      'a window that is left out as a whole still has its one run that day',
      { after: '2026-03-08 00:00Z', every: 10, window: ['02:00', '02:30'], zone: 'America/New_York' },
      ['2026-03-08 07:00:00', '2026-03-09 06:00:00'],
    ],
    [
      'Havana, 8 March 2026, midnight to 01:00',
      { after: '2026-03-08 04:00Z', every: 30, window: ['23:30', '01:30'], zone: 'America/Havana' },
      ['2026-03-08 04:30:00', '2026-03-08 05:00:00', '2026-03-09 03:30:00'],
    ],
    [
      'Lord Howe Island, 4 October 2026, by half an hour',
      { after: '2026-10-03 15:20Z', every: 15, window: ['02:00', '02:45'], zone: 'Australia/Lord_Howe' },
      ['2026-10-03 15:30:00', '2026-10-04 15:00:00'],
    ],
    [
      'Samoa left out 30 December 2011',
      { after: '2011-12-29 20:00Z', every: 720, window: ['09:00', '09:00'], zone: 'Pacific/Apia' },
      ['2011-12-30 07:00:00', '2011-12-30 10:00:00', '2011-12-30 19:00:00'],
    ],
  ])('%s', async (_place, rule, expected) => {
    expect(await slots(rule, expected.at(-1) ?? '')).toEqual(expected);
  });
});

describe('when clocks go back, times that come twice are slots the first time only', () => {
  const newYork = { every: 30, window: ['01:00', '03:00'], zone: 'America/New_York' } as const;

  test('New York, 1 November 2026, 01:00 to 02:00', async () => {
    expect(await slots({ ...newYork, after: '2026-11-01 04:00Z' }, '2026-11-02 06:00:00')).toEqual([
      '2026-11-01 05:00:00',
      '2026-11-01 05:30:00',
      '2026-11-01 07:00:00',
      '2026-11-01 07:30:00',
      '2026-11-02 06:00:00',
    ]);
  });

  test.each(['06:00:00', '06:00:01', '06:30', '06:59:59'])('asked the second time round, at %s UTC', async (time) => {
    expect(await next({ ...newYork, after: `2026-11-01 ${time}Z` })).toBe('2026-11-01 07:00:00');
  });

  test('Santiago goes back from midnight to 23:00: the day that ends twice has its slots once', async () => {
    const rule = { every: 30, window: ['23:00', '01:00'], zone: 'America/Santiago' } as const;
    expect(await slots({ ...rule, after: '2026-04-05 00:00Z' }, '2026-04-06 03:00:00')).toEqual([
      '2026-04-05 02:00:00',
      '2026-04-05 02:30:00',
      '2026-04-05 04:00:00',
      '2026-04-05 04:30:00',
      '2026-04-06 03:00:00',
    ]);
  });
});

test('a year in New York: 01:00, 02:00 and 03:00 each night, but for the two nights that clocks change', async () => {
  const [spring, autumn] = ['2026-03-08', '2026-11-01'];
  const expected = Array.from({ length: 365 }, (_, n) => {
    const day = new Date(Date.UTC(2026, 0, 1 + n)).toISOString().slice(0, 10);
    if (day === spring) return [`${day} 06:00:00`, `${day} 07:00:00`];
    if (day === autumn) return [`${day} 05:00:00`, `${day} 07:00:00`, `${day} 08:00:00`];
    const hours = day > spring && day < autumn ? [5, 6, 7] : [6, 7, 8];
    return hours.map((hour) => `${day} 0${hour}:00:00`);
  }).flat();
  const rule = { every: 60, window: ['01:00', '04:00'], zone: 'America/New_York' } as const;
  expect(await slots({ ...rule, after: '2026-01-01 05:59:59Z' }, '2026-12-31 08:00:00')).toEqual(expected);
});

test.each([0, -5])('a frequency of %s minutes is refused', async (every) => {
  await expect(next({ after: '2026-01-01Z', every })).rejects.toMatchObject({ code: '23514' });
});

test('a zone that does not exist is refused', async () => {
  const rule = { after: '2026-01-01Z', every: 5, window: ['01:00', '02:00'], zone: 'Mars/Base' } as const;
  await expect(next(rule)).rejects.toMatchObject({ code: '22023' });
});

test.each([
  ...['UTC', 'Europe/Berlin', 'America/Argentina/Buenos_Aires', 'America/Port-au-Prince', 'Etc/GMT+5'].map(
    (name) => [name, true] as const,
  ),
  // Abbreviations, POSIX rules, offsets, files with leap seconds, and what is no zone at all.
  ...['CET', 'PST', 'Foo/Bar+5', 'Mars/Base', '+02:00', '<+03>-3', 'right/UTC', '', ' UTC', '../etc/passwd', null].map(
    (name) => [name, false] as const,
  ),
])('%j as the name of a zone: %s', async (name, expected) => {
  const { rows } = await database.pool.query('select golioth.is_timezone($1) as accepted', [name]);
  expect(rows).toEqual([{ accepted: expected }]);
});

test.each(['anon', 'authenticated'])('%s asks for no slots: the rule is for the services', async (role) => {
  const client = await database.pool.connect();
  await client.query(`set role ${role}`);
  const asked = client.query(`select golioth.next_slot(now(), now(), 5)`);
  await expect(asked).rejects.toMatchObject({ code: SQLSTATE.insufficientPrivilege });
  client.release(true);
});
