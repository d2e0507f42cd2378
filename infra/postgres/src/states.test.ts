import { createTestDatabase, type TestDatabase } from '@outbox/testing';

let database: TestDatabase;
beforeAll(async () => void (database = await createTestDatabase()));
afterAll(() => database.drop());

/** Every row that could be, and which rules it breaks; the rules one by one, as docs/architecture.md tells them. */
const EVERY_ROW = /* sql */ `
  create temporary table every_row as
  select
    r.*,
    array_remove(
      array[
        case when state = 'unheard_of' then 'a state has one of seven names' end,
        case when (state = 'active') <> locked then 'an active row has a lease, no other has' end,
        case
          when (state in ('completed', 'skipped', 'failed', 'cancelled')) <> finished
          then 'a row that has ended says when, no other does'
        end,
        case when finished and holds_key then 'a row that has ended holds no key' end,
        case when finished and admitted then 'a row that has ended has no turn' end,
        case when admitted and serial_key is null then 'a row without a serial key has no turn' end
      ],
      null
    ) as broken,
    false as taken
  from (
    select state, locked, finished, holds_key, admitted, case when serial then state || row_number() over () end as serial_key
    from
      unnest('{pending,published,active,completed,skipped,failed,cancelled,unheard_of}'::text[]) state,
      unnest('{t,f}'::boolean[]) locked, unnest('{t,f}'::boolean[]) finished, unnest('{t,f}'::boolean[]) holds_key,
      unnest('{t,f}'::boolean[]) admitted, unnest('{t,f}'::boolean[]) serial
  ) r`;

const INSERT_EACH = /* sql */ `
  do $$
  declare
    r record;
  begin
    for r in select ctid as place, e.* from every_row e loop
      begin
        insert into outbox.jobs (
          name, queue, scheduled_at, due_at, max_attempts, state, locked_until, finished_at, holds_key, admitted, serial_key
        )
        values (
          'reminder_24h', 'reminders', now(), now(), 1, r.state, case when r.locked then now() end,
          case when r.finished then now() end, r.holds_key, r.admitted, r.serial_key
        );
        update every_row e set taken = true where e.ctid = r.place;
      exception when check_violation then
        null;
      end;
    end loop;
  end $$`;

it('a row is taken exactly if its state fits its fields', async () => {
  const client = await database.pool.connect();
  try {
    await client.query(EVERY_ROW);
    await client.query(INSERT_EACH);
    const { rows } = await client.query<{ broken: string[]; taken: boolean }>('select broken, taken from every_row');
    expect(rows).toHaveLength(256);
    expect(rows.filter(({ broken, taken }) => taken !== (broken.length === 0))).toEqual([]);
    expect(rows.some(({ taken }) => taken)).toBe(true);
    // Each rule is broken by some row that breaks no other.
    const alone = rows.filter(({ broken }) => broken.length === 1).flatMap(({ broken }) => broken);
    expect(new Set(alone).size).toBe(6);
  } finally {
    client.release(true);
  }
});
