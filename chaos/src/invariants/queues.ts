import { setTimeout as wait } from 'node:timers/promises';
import { SECOND, type Pool } from '@outbox/core';
import type { Queue } from 'bullmq';
import { mustBeNone, told, type Finding, type World } from './finding.ts';

/** Postgres and BullMQ agree again within this time after the last job. */
const AGREE_WITHIN_MS = 20 * SECOND;
const LOOK_EVERY_MS = 500;

const OPEN = ['waiting', 'active', 'delayed', 'prioritized', 'waiting-children'] as const;

/** Invariant 9: when every row has ended, BullMQ has nothing left to run. */
export async function findQueues({ pool, stage }: World): Promise<Finding[]> {
  const deadline = Date.now() + AGREE_WITHIN_MS;
  let left = await findOpen(stage.queues);
  while (left.length > 0 && Date.now() < deadline) {
    await wait(LOOK_EVERY_MS);
    left = await findOpen(stage.queues);
  }
  const [ours, strangers] = await tellApart(pool, left);
  return [
    mustBeNone('jobs left in BullMQ whose rows have ended', ours),
    told('jobs left in BullMQ that others have put there', strangers),
  ];
}

interface OpenJob {
  queue: string;
  id: string;
  state: string;
}

async function findOpen(queues: Queue[]): Promise<OpenJob[]> {
  const found = await Promise.all(
    queues.flatMap((queue) =>
      OPEN.map(async (state) => {
        const ids = await queue.getRanges([state], 0, -1);
        return ids.map((id) => ({ queue: queue.name, id, state }));
      }),
    ),
  );
  return found.flat();
}

/** An open job of a row that has not ended is as it should be. */
async function tellApart(pool: Pool, left: OpenJob[]): Promise<[ours: string[], strangers: string[]]> {
  const isOurs = ({ id }: OpenJob) => /^\d+-\d+$/.test(id);
  const { rows } = await pool.query<{ id: string }>(FIND_OPEN_ROWS, [left.filter(isOurs).map(({ id }) => id)]);
  const open = new Set(rows.map(({ id }) => id));
  const describe = ({ queue, id, state }: OpenJob) => `${id} ${state} in ${queue}`;
  return [
    left.filter((job) => isOurs(job) && !open.has(job.id)).map(describe),
    left.filter((job) => !isOurs(job)).map(describe),
  ];
}

const FIND_OPEN_ROWS = /* sql */ `
  select l.id
  from unnest($1::text[]) as l (id)
  join outbox.jobs j on j.id = split_part(l.id, '-', 1)::bigint and j.generation = split_part(l.id, '-', 2)::int
  where j.finished_at is null`;
