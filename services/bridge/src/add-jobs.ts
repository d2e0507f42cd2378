import type { BulkJobOptions, Queue } from 'bullmq';

export interface BulkJob<Row> {
  row: Row;
  name: string;
  data: unknown;
  opts: BulkJobOptions;
}

export interface Refused<Row> {
  row: Row;
  error: Error;
}

/**
 * Adds jobs to a queue and returns those that BullMQ refuses. One bad job makes `addBulk` add nothing and name nobody: the
 * group is halved until the refused stand alone, so the others go through. When the backend is away, full or read-only, it
 * rejects and every row keeps waiting. Jobs that were added before it rejected
 * are added again by the next publish, which BullMQ ignores.
 */
export async function addJobs<Row>(queue: Queue, jobs: BulkJob<Row>[]): Promise<Refused<Row>[]> {
  if (jobs.length === 0) return [];
  try {
    await queue.addBulk(jobs.map(({ name, data, opts }) => ({ name, data, opts })));
    return [];
  } catch (error) {
    if (!isRefusal(error)) throw error;
    const [first] = jobs;
    if (first && jobs.length === 1) return [{ row: first.row, error }];
    const middle = Math.ceil(jobs.length / 2);
    return [...(await addJobs(queue, jobs.slice(0, middle))), ...(await addJobs(queue, jobs.slice(middle)))];
  }
}

/** What ioredis, Redis (OOM, READONLY, LOADING, …) and `pg` say when it is not about the job. */
const AWAY =
  /Connection is closed|Command timed out|Stream isn't writeable|Connection terminated|max retries per request/i;

function isRefusal(error: unknown): error is Error {
  if (!(error instanceof Error)) return false;
  return !('code' in error) && error.name !== 'ReplyError' && !AWAY.test(error.message);
}
