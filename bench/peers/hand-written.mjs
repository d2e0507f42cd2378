/** What a team writes in an afternoon: a poll, an add and an update for each row, and an update at the end. */
import { Queue, Worker } from 'bullmq';
import pg from 'pg';
import { countDone, ready, started } from './count-done.mjs';

const { ROLE, DATABASE_URL, QUEUE, REDIS_PORT, CONCURRENCY } = process.env;
const POLL_MS = 1_000;
const BATCH = 1_000;

const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 10 });
const connection = { host: '127.0.0.1', port: Number(REDIS_PORT), maxRetriesPerRequest: null };

if (ROLE === 'bridge') {
  const queue = new Queue(QUEUE, { connection });
  const publish = async () => {
    const { rows } = await pool.query(
      "select id, payload from hand_written.outbox where status = 'pending' order by id limit $1",
      [BATCH],
    );
    for (const { id, payload } of rows) {
      await queue.add('no-op', { id, ...payload }, { jobId: `row-${id}`, removeOnComplete: true });
      await pool.query("update hand_written.outbox set status = 'queued' where id = $1", [id]);
    }
    setTimeout(() => void publish(), rows.length === BATCH ? 0 : POLL_MS);
  };
  await queue.waitUntilReady();
  void publish();
} else {
  const worker = new Worker(
    QUEUE,
    async ({ data }) => {
      started(data.workId);
      await pool.query("update hand_written.outbox set status = 'processing' where id = $1", [data.id]);
      await pool.query("update hand_written.outbox set status = 'processed', processed_at = now() where id = $1", [
        data.id,
      ]);
      countDone();
    },
    { connection, concurrency: Number(CONCURRENCY) },
  );
  worker.on('error', (error) => console.error(error.message));
  await worker.waitUntilReady();
}
ready();
process.once('SIGTERM', () => process.exit());
