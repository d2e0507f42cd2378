import { createWriteStream, type WriteStream } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { finished } from 'node:stream/promises';
import { withTransaction, type Pool } from '@outbox/core';

/** Rows of one fetch: a dump must not hold a table in memory. */
const ROWS_AT_ONCE = 2_000;

const TABLES = [
  'outbox.jobs',
  'outbox.attempts',
  'outbox.effects',
  'outbox.ready',
  'outbox.removals',
  'outbox.queues',
  'outbox.capture_errors',
  'outbox.idempotency_keys',
  'public.auto_syncs',
  'public.auto_sync_responses',
  'public.auto_sync_messages',
];

/** What happened in a run, as files of JSON lines in a folder of its own. */
export class History {
  readonly folder: string;
  readonly #streams = new Map<string, WriteStream>();

  constructor(folder: string) {
    this.folder = folder;
  }

  async open(): Promise<void> {
    await mkdir(join(this.folder, 'logs'), { recursive: true });
    await mkdir(join(this.folder, 'tables'), { recursive: true });
  }

  logFile(name: string): string {
    return join(this.folder, 'logs', `${name}.log`);
  }

  note(file: string, event: object): void {
    const known = this.#streams.get(file);
    const stream = known ?? createWriteStream(join(this.folder, `${file}.jsonl`), { flags: 'a' });
    this.#streams.set(file, stream);
    stream.write(`${JSON.stringify({ at: new Date().toISOString(), ...event })}\n`);
  }

  /** The tables that tell what became of everything. */
  async dump(pool: Pool): Promise<void> {
    for (const table of TABLES) {
      const file = createWriteStream(join(this.folder, 'tables', `${table}.jsonl`));
      await withTransaction(pool, async (client) => {
        await client.query(`declare dump cursor for select to_jsonb(t)::text as line from ${table} t`);
        for (let found = ROWS_AT_ONCE; found === ROWS_AT_ONCE;) {
          const { rows } = await client.query<{ line: string }>(`fetch ${ROWS_AT_ONCE} from dump`);
          for (const { line } of rows) file.write(`${line}\n`);
          found = rows.length;
        }
      });
      file.end();
      await finished(file);
    }
  }

  async write(file: string, text: string): Promise<void> {
    await writeFile(join(this.folder, file), text);
  }

  async close(): Promise<void> {
    const streams = [...this.#streams.values()];
    this.#streams.clear();
    for (const stream of streams) stream.end();
    await Promise.all(streams.map((stream) => finished(stream)));
  }

  async remove(): Promise<void> {
    await rm(this.folder, { recursive: true, force: true });
  }
}
