import { Postgres, type Row } from './postgres.ts';
import { Provider } from './provider.ts';
import { Queue } from './queue.ts';
import type { Variant } from './variants.ts';
import { Watch } from './watch.ts';

/**
 * A piece of work in small steps. It yields wherever the real code awaits, with the name of that place; there it may be
 * overtaken by any other process, or never go on.
 */
export type Process<Result = void> = Generator<string, Result, void>;

/** Everything there is, and the time. */
export class World {
  now = 0;
  readonly variant: Variant | undefined;
  readonly watch: Watch;
  readonly db: Postgres;
  readonly queue = new Queue();
  readonly provider: Provider;

  constructor(variant: Variant | undefined) {
    this.variant = variant;
    this.watch = new Watch();
    this.db = new Postgres(
      (row) => this.#isHolder(row),
      (row) => this.watch.violated(`a retry fails on uniqueness: row ${row.id} comes back beside another of its key`),
    );
    this.provider = new Provider((key, times) => this.watch.arrived(key, times, this.db.effects.get(key)?.state));
  }

  broken(variant: Variant): boolean {
    return this.variant === variant;
  }

  /** infra/postgres/migrations/0001_outbox.sql, index jobs_one_holder_of_a_key. */
  #isHolder(row: Row): boolean {
    if (this.broken('uniqueness by state')) return row.state === 'pending' || row.state === 'published';
    return row.holdsKey;
  }
}
