import type { Pool } from '@outbox/core';
import type { SentMessage } from '@outbox/simulators';
import type { Business } from '../business/business.ts';
import type { Stage } from '../stage.ts';

/** What is left to judge when all is quiet. */
export interface World {
  pool: Pool;
  business: Business;
  /** Every text that arrived at the provider. */
  messages: SentMessage[];
  stage: Stage;
}

/** One question, and how many answers were wrong. */
export interface Finding {
  question: string;
  count: number;
  /** `must be 0` breaks the run; `told` is for whoever reads. */
  kind: 'must be 0' | 'told';
  /** The first few, to begin reading with. */
  examples: string[];
}

const MOST_EXAMPLES = 10;

export function mustBeNone(question: string, wrong: readonly string[]): Finding {
  return { question, count: wrong.length, kind: 'must be 0', examples: wrong.slice(0, MOST_EXAMPLES) };
}

export function told(question: string, those: readonly string[]): Finding {
  return { ...mustBeNone(question, those), kind: 'told' };
}

/** Rows of a statement whose one column is `example`. */
export async function ask(pool: Pool, statement: string, values: unknown[] = []): Promise<string[]> {
  const { rows } = await pool.query<{ example: string }>(statement, values);
  return rows.map(({ example }) => example);
}
