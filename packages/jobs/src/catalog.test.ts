import type { JobDefinition } from '@outbox/core';
import { createTestDatabase } from '@outbox/testing';
import { catalog, families, findDefinition, queueNames } from './catalog.ts';
import { findHandler, handlers } from './handlers.ts';

const definitions: readonly JobDefinition[] = catalog;
const names = definitions.map(({ name }) => name);

describe('the catalogue', () => {
  test('names every job once', () => {
    expect([...new Set(names)]).toEqual(names);
  });

  test('has a handler for every job, and no handler without a job', () => {
    expect(Object.keys(handlers).sort()).toEqual([...names].sort());
    for (const name of names) expect(findHandler(name)).toBeInstanceOf(Function);
  });

  test.each(['no_such_job', 'toString', '__proto__', ''])('knows nothing of %j, which may stand in a row', (name) => {
    expect([findDefinition(name), findHandler(name)]).toEqual([undefined, undefined]);
  });

  test.each(definitions)('$name is found by its name, and its family is installed', (definition) => {
    expect(findDefinition(definition.name)).toBe(definition);
    expect(families.map(({ name }) => name)).toContain(definition.family);
  });

  test('names every queue once, in characters BullMQ takes', () => {
    expect([...new Set(queueNames())]).toEqual(queueNames());
    for (const queue of queueNames()) expect(queue).toMatch(/^[a-z0-9-]+$/);
  });

  test('is what a migrated database says: the same jobs, queues, uniqueness and attempts', async () => {
    const database = await createTestDatabase();
    const { rows } = await database.pool.query<Record<string, unknown>>(
      'select name, family, queue, unique_mode, max_attempts from outbox.job_types order by name',
    );
    const { rows: queues } = await database.pool.query<{ name: string }>(
      'select name from outbox.queues order by name',
    );
    await database.drop();
    const expected = definitions.map(({ name, family, queue, unique, attempts }) => ({
      ...{ name, family, queue, unique_mode: unique, max_attempts: attempts },
    }));
    expect(rows).toEqual(expected.sort((a, b) => a.name.localeCompare(b.name)));
    expect(queues.map(({ name }) => name)).toEqual(queueNames().sort());
  });
});
