import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { createTestDatabase, type TestDatabase } from '@outbox/testing';
import { nextSlots } from './slots.fixture.ts';

const DOCUMENT = fileURLToPath(new URL('../../../../docs/families/golioth.md', import.meta.url));

/** A line of the table of examples: zone, window, frequency, instant, slots. */
const EXAMPLE = /^\| (\S+) +\| (\d\d):(\d\d)–(\d\d):(\d\d) +\| (\d+) +\| (\d[\d :-]+\d) +\| (\d[\d :,-]+\d) +\|$/;

let database: TestDatabase;
beforeAll(async () => void (database = await createTestDatabase()));
afterAll(() => database.drop());

test('the examples in docs/families/golioth.md are what golioth.next_slot says', async () => {
  const lines = (await readFile(DOCUMENT, 'utf8')).split('\n');
  const examples = lines.map((line) => EXAMPLE.exec(line)).filter((match) => match !== null);
  expect(examples.length).toBeGreaterThanOrEqual(10);
  for (const [line, timezone = '', ...rest] of examples) {
    const [opensHour, opensMinute, closesHour, closesMinute, frequencyMinutes] = rest.slice(0, 5).map(Number);
    const window = { opens: seconds(opensHour, opensMinute), closes: seconds(closesHour, closesMinute) };
    const [after = '', listed = ''] = rest.slice(5);
    const slots = listed.split(', ');
    const schedule = { createdAt: new Date(0), frequencyMinutes: frequencyMinutes ?? 0, window, timezone };
    const found = await nextSlots(database.pool, schedule, new Date(`${after}Z`), slots.length);
    const shown = found.map((slot) => slot.toISOString().replace('T', ' ').slice(0, 16));
    expect({ line, slots: shown }).toEqual({ line, slots });
  }
});

function seconds(hours = 0, minutes = 0): number {
  return hours * 3_600 + minutes * 60;
}
