import { setTimeout as wait } from 'node:timers/promises';
import { isConnectionError, type Queryable } from '@outbox/core';

const LOOK_EVERY_MS = 200;

const READ_SCENES = /* sql */ `
  select
    s.id, s.event_name as "eventName", s.status::text as status,
    array(
      select c.name
      from public.auto_sync_responses r
      join public.contacts c on c.id = r.contact_id
      where r.auto_sync_id = s.id
      order by r.created_at
    ) as answered,
    array(
      select c.name || ' (' || c.phone || ')'
      from public.auto_sync_messages m
      join public.contacts c on c.id = m.contact_id
      where m.auto_sync_id = s.id and m.message_type = 'reminder'
      order by c.name
    ) as texted,
    array(
      select jsonb_build_object(
        'id', j.id, 'name', j.name, 'state', j.state, 'reason', j.reason, 'error', j.last_error,
        'attempt', j.attempt, 'dueInMs', extract(epoch from j.scheduled_at - clock_timestamp()) * 1000
      )
      from outbox.jobs j
      where j.key = s.id::text and j.name in ('reminder_24h', 'pause_check_48h')
      order by j.id
    ) as jobs
  from public.auto_syncs s
  where s.created_at >= $1
  order by s.created_at
  limit 100`;

interface JobScene {
  id: number;
  name: string;
  state: string;
  reason: string | null;
  error: string | null;
  attempt: number;
  dueInMs: number;
}

export interface Scene {
  id: string;
  eventName: string;
  status: string;
  answered: string[];
  texted: string[];
  jobs: JobScene[];
}

/**
 * Tells what happens to every auto sync created since it started, line by line as it happens, from what the tables say
 * and nothing else.
 */
export class Narrator {
  readonly #db: Queryable;
  readonly #say: (line: string) => void;
  readonly #seen = new Map<string, Scene>();
  readonly #audience = new Set<(scene: Scene) => void>();
  readonly #stop = new AbortController();
  #telling: Promise<void> | undefined;

  constructor(db: Queryable, say: (line: string) => void) {
    this.#db = db;
    this.#say = say;
  }

  /** Auto syncs created from now on, by the database's clock, are told. */
  async start(): Promise<void> {
    const { rows } = await this.#db.query<{ now: Date }>('select now()');
    this.#telling = this.#tell(rows[0]?.now ?? new Date());
  }

  async stop(): Promise<void> {
    this.#stop.abort(new Error('The narrator stopped.'));
    await this.#telling;
  }

  /** Resolves with the scene of an auto sync for which `isSo` holds, now or later. Rejects when `signal` aborts. */
  until(autoSyncId: string, isSo: (scene: Scene) => boolean, signal: AbortSignal): Promise<Scene> {
    return new Promise((resolve, reject) => {
      const look = (scene: Scene) => {
        if (scene.id !== autoSyncId || !isSo(scene)) return;
        this.#audience.delete(look);
        resolve(scene);
      };
      signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
      this.#audience.add(look);
      const seen = this.#seen.get(autoSyncId);
      if (seen) look(seen);
    });
  }

  async #tell(since: Date): Promise<void> {
    while (!this.#stop.signal.aborted) {
      await this.#look(since).catch((error: unknown) => {
        if (!isConnectionError(error)) throw error;
      });
      await wait(LOOK_EVERY_MS, undefined, { signal: this.#stop.signal }).catch(() => undefined);
    }
  }

  async #look(since: Date): Promise<void> {
    const { rows } = await this.#db.query<Scene & Record<string, unknown>>(READ_SCENES, [since]);
    for (const scene of rows) {
      describeChange(this.#seen.get(scene.id), scene).forEach(this.#say);
      this.#seen.set(scene.id, scene);
      this.#audience.forEach((look) => look(scene));
    }
  }
}

/** The lines that lead from one look to the next. */
export function describeChange(before: Scene | undefined, now: Scene): string[] {
  const title = `“${now.eventName}”`;
  const lines = before ? [] : [`${title}: auto sync inserted`];
  for (const name of now.answered.slice(before?.answered.length ?? 0)) lines.push(`${title}: ${name} answered`);
  if (now.texted.length > (before?.texted.length ?? 0)) lines.push(`${title}: texted ${now.texted.join(', ')}`);
  for (const job of now.jobs) {
    const earlier = before?.jobs.find(({ id }) => id === job.id);
    lines.push(...describeJob(title, earlier, job));
  }
  if (before && before.status !== now.status) lines.push(`${title}: auto sync is ${now.status}`);
  return lines;
}

function describeJob(title: string, before: JobScene | undefined, job: JobScene): string[] {
  const row = `${job.name} (row ${job.id})`;
  const lines = before ? [] : [`${title}: ${row} written in the same transaction, due in ${seconds(job.dueInMs)}`];
  if (before?.state === job.state && before.attempt === job.attempt) return lines;
  switch (job.state) {
    case 'published':
      if (job.attempt > 0) lines.push(`${title}: ${row} failed (${job.error}), again in ${seconds(job.dueInMs)}`);
      else lines.push(`${title}: ${row} is a delayed job in BullMQ now`);
      break;
    case 'completed':
      lines.push(`${title}: ${row} completed`);
      break;
    case 'skipped':
    case 'failed':
    case 'cancelled':
      lines.push(`${title}: ${row} ${job.state} (${job.reason})`);
      break;
  }
  return lines;
}

function seconds(ms: number): string {
  return ms > 120_000 ? `${Math.round(ms / 60_000)} min` : `${Math.max(0, ms / 1_000).toFixed(0)} s`;
}
