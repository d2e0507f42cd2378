/** What a handler that did not throw came to. `result` is kept on the row and shown on the job page. */
export type Outcome = { kind: 'done'; result?: unknown } | { kind: 'skipped'; reason: string; result?: unknown };

export function done(result?: unknown): Outcome {
  return { kind: 'done', result };
}

/** Handled correctly by doing nothing. `reason` is a stable snake_case word that people search for. */
export function skipped(reason: string, result?: unknown): Outcome {
  return { kind: 'skipped', reason, result };
}
