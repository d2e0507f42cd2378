import { Repeater, withTransaction, type Logger, type Pool } from '@outbox/core';
import { families, type FamilyName } from '@outbox/jobs';
import { z } from 'zod';

const HAS_FUNCTION = /* sql */ `
  select exists (
    select from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname || '.' || p.proname = $1
  ) as installed
  limit 1`;

/**
 * A sweep compares whole tables, the host's among them, where the bridge's other statements follow an index to a few rows
 * (`preferIndexes`); and it plans for the tables as they are now, not as they were at the first sweep of this connection.
 */
const PLAN_FOR_WHOLE_TABLES = /* sql */ `
  set local enable_seqscan = on;
  set local enable_bitmapscan = on;
  set local plan_cache_mode = force_custom_plan`;

/** What a sweep function answers (`Family.sweep`); null while another bridge is at it. */
const sweepAnswer = z
  .object({ failed: z.int(), error: z.string().nullable(), more: z.boolean() })
  .catchall(z.int())
  .nullable();

export interface Swept {
  /** How many of what were healed, by name. */
  healed: Record<string, number>;
  /** Rows that could not be healed this time, and why the last of them could not. */
  failed: number;
  error: string | null;
  more: boolean;
}

/**
 * Calls the sweep function `name` once: a few hundred rows, one transaction. Undefined when this database does not have
 * the function (the family's tables are not here, or `migrate` has not run yet) or another bridge is sweeping.
 */
export async function sweepOnce(pool: Pool, name: string): Promise<Swept | undefined> {
  const { rows: found } = await pool.query<{ installed: boolean }>(HAS_FUNCTION, [name]);
  if (!found[0]?.installed) return undefined;
  const { rows } = await withTransaction(pool, async (client) => {
    await client.query(PLAN_FOR_WHOLE_TABLES);
    return client.query<{ answer: unknown }>(/* sql */ `select ${name}() as answer`);
  });
  const answer = sweepAnswer.parse(rows[0]?.answer);
  if (!answer) return undefined;
  const { failed, error, more, ...healed } = answer;
  return { healed, failed, error, more };
}

/** Enough for what an hour without captures leaves; and a rule that never finds an end would not keep us at it. */
const MOST_CALLS = 100;

export interface SweeperOptions {
  pool: Pool;
  /** The others are left alone. */
  families: readonly FamilyName[];
  everyMs: number;
  /** Says why nothing may be changed now; undefined when all is well. */
  heldBy: () => string | undefined;
  log: Logger;
}

/** Heals every `everyMs` what the families' triggers missed. */
export class Sweeper {
  readonly #options: SweeperOptions;
  readonly #repeater: Repeater;
  #stopped = false;

  constructor(options: SweeperOptions) {
    this.#options = options;
    const { everyMs, log } = options;
    this.#repeater = new Repeater({ everyMs, log, failure: 'sweep failed', work: () => this.sweep() });
  }

  /** The first time is at once: resolves when it is over. */
  async start(): Promise<void> {
    await this.#repeater.start();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#repeater.stop();
  }

  /** One round over its families. An error of one is logged and does not keep the others from it. */
  async sweep(): Promise<void> {
    for (const { name, sweep } of families) {
      if (sweep === undefined || !this.#options.families.includes(name)) continue;
      if (this.#options.heldBy() !== undefined) return;
      await this.#sweepFamily(name, sweep).catch((err: unknown) =>
        this.#options.log.warn({ family: name, err }, 'sweep failed'),
      );
    }
  }

  async #sweepFamily(family: string, name: string): Promise<void> {
    const { pool, log } = this.#options;
    for (let call = 0; call < MOST_CALLS && !this.#stopped; call += 1) {
      const swept = await sweepOnce(pool, name);
      if (!swept) return;
      const { healed, failed, error, more } = swept;
      if (Object.values(healed).some((count) => count > 0)) log.warn({ family, ...healed }, 'missed rows healed');
      if (failed > 0) log.error({ family, failed, err: new Error(error ?? 'unknown') }, 'missed rows not healed');
      if (!more) return;
    }
  }
}
