import { randomUUID } from 'node:crypto';
import type { Queryable } from '@outbox/core';
import { rowsOf, type Row, type Rows } from './rows.fixture.ts';

/** The arguments of outbox.capture() by their names. */
export type Rule = Record<string, unknown>;

/** A table nobody else uses, a job that only it writes, and the rule that is to connect them. */
export interface Captured {
  table: string;
  job: string;
  name: string;
  rule: Rule;
}

/** Calls outbox.capture() and gives what it says. */
export async function declare(rule: Rule, db: Queryable): Promise<unknown> {
  const names = Object.keys(rule);
  const list = names.map((name, n) => `"${name}" => $${n + 1}`).join(', ');
  const [answer] = await rowsOf(db, `select outbox.capture(${list}) as done`, Object.values(rule));
  return answer?.done;
}

/** Makes a table and declares a rule for it, by default for all its changes. */
export async function capture(rows: Rows, rule: Rule = {}, unique?: 'waiting' | 'open'): Promise<Captured> {
  const id = randomUUID().replaceAll('-', '').slice(0, 12);
  const job = await rows.addType(unique);
  const captured = { table: `public.things_${id}`, job, name: `test.r${id}` };
  await rows.database.pool.query(
    `create table ${captured.table} (
       id int primary key, email text, status text not null default 'on', note json, due_at timestamptz, owner_id uuid
     )`,
  );
  const whole = {
    name: captured.name,
    table_name: captured.table,
    job_name: job,
    key: 'row.id::text',
    payload: `jsonb_build_object('id', row.id)`,
    ...rule,
  };
  await declare(whole, rows.database.pool);
  return { ...captured, rule: whole };
}

/** `1 pending, 2 cancelled`: the keys and states of a job's rows, oldest first. */
export async function jobsOf({ job }: Captured, db: Queryable): Promise<string> {
  const found = await rowsOf(db, 'select key, state from outbox.jobs where name = $1 order by key::int, id', [job]);
  return found.map(({ key, state }) => `${String(key)} ${String(state)}`).join(', ');
}

export function errorsOf({ job }: Captured, db: Queryable): Promise<Row[]> {
  return rowsOf(
    db,
    'select table_name, key, sqlstate, message from outbox.capture_errors where job_name = $1 order by id',
    [job],
  );
}

/** The names of its triggers, each with O when it is enabled and D when it is not. */
export async function triggersOf(table: string, db: Queryable): Promise<string[]> {
  const found = await rowsOf(
    db,
    `select t.tgname as name, t.tgenabled as enabled from pg_trigger t where t.tgrelid = to_regclass($1) order by t.tgname`,
    [table],
  );
  return found.map(({ name, enabled }) => `${String(name)} ${String(enabled)}`);
}
