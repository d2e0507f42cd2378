import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import type { Stage } from './stage.ts';

/** Processor time by process id, in microseconds since each began, of this process and all that come from it. */
export type ProcessorTimes = ReadonlyMap<number, number>;

/** Linux counts in ticks of a hundredth of a second, on every machine. */
const TICK_US = 10_000;

interface ProcessView {
  pid: number;
  parent: number;
  us: number;
}

/** Throws where there is no /proc. */
export async function readProcessorTimes(): Promise<ProcessorTimes> {
  if (!existsSync('/proc/self/stat')) throw new Error('Processor time is read from /proc, which Linux has.');
  const names = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const views = (await Promise.all(names.map(readProcess))).filter((view) => view !== undefined);
  const parents = new Map(views.map(({ pid, parent }) => [pid, parent]));
  const isOurs = (pid: number): boolean => {
    for (let at: number | undefined = pid; at !== undefined; at = parents.get(at)) {
      if (at === process.pid) return true;
    }
    return false;
  };
  return new Map(views.filter(({ pid }) => isOurs(pid)).map(({ pid, us }) => [pid, us]));
}

/** Undefined when it has ended meanwhile. See proc_pid_stat(5); the name, in brackets, may contain anything. */
async function readProcess(name: string): Promise<ProcessView | undefined> {
  const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => undefined);
  if (stat === undefined) return undefined;
  const [, parent, , , , , , , , , , user, system] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return { pid: Number(name), parent: Number(parent), us: (Number(user) + Number(system)) * TICK_US };
}

/** What each process is for; sessions of PostgreSQL by who works in them. */
export async function namesOfProcesses(stage: Stage, named: ReadonlyMap<number, string>): Promise<Map<number, string>> {
  const { rows } = await stage.pool.query<{ pid: number; type: string; application: string }>(
    'select pid, backend_type as type, application_name as application from pg_stat_activity',
  );
  const redisPid = Number(/process_id:(\d+)/.exec(await stage.redis.info('server'))?.[1]);
  const sessions = rows.map(({ pid, type, application }): [number, string] => [
    pid,
    type === 'client backend' ? `PostgreSQL for ${SESSIONS[application] ?? application}` : 'PostgreSQL by itself',
  ]);
  return new Map([...sessions, [redisPid, 'Redis'], [process.pid, INSERTING], ...named]);
}

const INSERTING = 'Process that inserts';

/** By the name that a session gives itself. */
const SESSIONS: Record<string, string> = {
  'outbox bench': 'the process that inserts',
  'outbox bridge': 'the bridge',
  'outbox bridge listen': 'the bridge',
  'outbox worker': 'the worker',
  'outbox worker leases': 'the worker',
};

/** What each kind of process took between two readings; processes without a name are taken together. */
export function taken(
  before: ProcessorTimes,
  after: ProcessorTimes,
  names: ReadonlyMap<number, string>,
): Map<string, number> {
  const sums = new Map<string, number>();
  for (const [pid, us] of after) {
    const name = names.get(pid) ?? 'Other';
    sums.set(name, (sums.get(name) ?? 0) + us - (before.get(pid) ?? 0));
  }
  return sums;
}
