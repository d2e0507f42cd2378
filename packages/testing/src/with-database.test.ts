import { createPool } from '@outbox/core';
import { createTestDatabase, type TestDatabase } from './with-database.ts';

async function rowsOf(database: TestDatabase, sql: string): Promise<unknown[]> {
  const { rows } = await database.pool.query<Record<string, unknown>>(sql);
  return rows;
}

describe('createTestDatabase', () => {
  it('gives a migrated database of the instance "test"', async () => {
    const database = await createTestDatabase();
    expect(await rowsOf(database, 'select instance, backend from outbox.meta limit 1')).toEqual([
      { instance: 'test', backend: 'redis' },
    ]);
    await database.drop();
  });

  it('gives databases that see nothing of each other, also when made at the same time', async () => {
    const databases = await Promise.all(Array.from({ length: 4 }, () => createTestDatabase()));
    await databases[0]?.pool.query('create table mine (id int)');
    const counts = databases.map((database) => rowsOf(database, `select to_regclass('mine') is not null as found`));
    expect(await Promise.all(counts)).toEqual([[{ found: true }], ...Array<unknown>(3).fill([{ found: false }])]);
    await Promise.all(databases.map((database) => database.drop()));
  });

  it('fails the drop when somebody is still connected, names them, and drops all the same', async () => {
    const database = await createTestDatabase();
    const leaked = createPool({ url: database.url, applicationName: 'leaked', max: 1, onError: () => undefined });
    await leaked.query('select 1');
    const dropped = database.drop();
    // KEEP=1 keeps everything, and then there is nothing to complain about.
    if (process.env.KEEP === '1') await dropped;
    else {
      await expect(dropped).rejects.toThrow("Still connected to the test's database: leaked");
      await expect(leaked.query('select 1')).rejects.toThrow();
    }
    await leaked.end();
  });
});
