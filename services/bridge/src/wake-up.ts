import { codeOf, SECOND, SQLSTATE, type Logger } from '@outbox/core';
import pg from 'pg';

/** How long to queue for the awake lock before asking anew: `release` waits for the answer. */
const LOCK_TIMEOUT_MS = 50;

/** After the connection was lost. */
const CONNECT_AGAIN_MS = 1 * SECOND;

/** A connection that does not answer within this time is given up: publishing must not hang on it. */
const QUERY_TIMEOUT_MS = 2 * SECOND;

/** PostgreSQL takes this lock, of the whole cluster, at the commit of whoever has notified. */
const NOTIFIERS_THAT_WAIT = /* sql */ `
  select
  from pg_locks l
  join pg_stat_activity a on a.pid = l.pid and a.datname = current_database()
  where not l.granted and l.locktype = 'object' and l.classid = 'pg_database'::regclass and l.objid = 0
  limit 1`;

/** A server that was not told that we are gone lets go of the lock after half a minute, not after two hours. */
const SESSION = /* sql */ `
  set lock_timeout = ${LOCK_TIMEOUT_MS};
  set tcp_keepalives_idle = 10;
  set tcp_keepalives_interval = 5;
  set tcp_keepalives_count = 4;
  listen outbox_ready`;

/**
 * Lets writers know whether the bridge sleeps. NOTIFY takes a lock on the whole cluster at commit, so writers should send
 * one only when nobody would notice their rows otherwise (see outbox.wake_bridge). While awake, the bridge holds an
 * advisory lock that tells them so.
 *
 *   awake    acquire(), again and again: writers do not notify, the bridge looks by itself
 *   asleep   release(), one more look, then wait(): the next writer notifies
 *
 * A commit now and then finds the bridge asleep: its notification takes less time than waiting for the next look would.
 *
 * Every miss (a writer that saw us awake and commits after we slept; a connection that broke) costs at most the poll
 * interval: wait() returns by then. One that went silent costs as much as its time-out more.
 */
export class WakeUp {
  readonly #url: string;
  readonly #role: string | undefined;
  readonly #log: Logger;
  #client: pg.Client | undefined;
  #isAwake = false;
  #asking: Promise<void> | undefined;
  #askAgainAt = 0;
  #notified = false;
  /** True when a wait ended without having heard anything: the connection may be dead, and is asked. */
  #isDoubtful = false;
  #endWait: (() => void) | undefined;

  constructor(options: { url: string; role: string | undefined; log: Logger }) {
    this.#url = options.url;
    this.#role = options.role;
    this.#log = options.log;
  }

  /**
   * Says that the bridge is awake; to be called with every look, since there may be something in the way. Resolves after the
   * attempt, which nothing has to wait for: without the lock, or without a connection, writers notify, that is all.
   *
   * Many writers at once hold the lock shared, one after the other, without a gap. It is enough that we queue for it: their
   * tries fail from then on, so that nobody notifies and the last holder of the shared lock is soon gone. Were it tried for
   * once and no more, such a moment would last: everybody notifies, commits wait for each other, and hold the lock longer.
   */
  acquire(): Promise<void> {
    if (this.#isAwake || performance.now() < this.#askAgainAt) return Promise.resolve();
    this.#asking ??= this.#ask().finally(() => (this.#asking = undefined));
    return this.#asking;
  }

  async #ask(): Promise<void> {
    await this.#quietly(async (client) => {
      await client.query('select pg_advisory_lock(outbox.awake_lock())');
      this.#isAwake = true;
    });
  }

  /**
   * Says that the bridge sleeps, if it was awake. Look once more after it, then wait: whoever commits after that look has
   * notified, and the wait does not begin.
   */
  async release(): Promise<void> {
    await this.#asking;
    this.#notified = false;
    if (this.#client && !this.#isAwake && !this.#isDoubtful) return;
    this.#isAwake = false;
    this.#isDoubtful = false;
    await this.#quietly((client) => client.query('select pg_advisory_unlock_all()'));
  }

  /** True when writers wait for each other at this moment because they notify a bridge that sleeps. */
  async isCrowded(): Promise<boolean> {
    if (!this.#client) return false;
    let waiting = 0;
    await this.#quietly(async (client) => {
      waiting = (await client.query(NOTIFIERS_THAT_WAIT)).rowCount ?? 0;
    });
    return waiting > 0;
  }

  /** Returns when a writer has notified since `release`, or after `timeoutMs`, or on `wake`. */
  async wait(timeoutMs: number): Promise<void> {
    if (this.#notified) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => {
        this.#isDoubtful = true;
        resolve();
      }, timeoutMs);
      this.#endWait = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#endWait = undefined;
  }

  /** Ends a `wait`, also one that has not begun. */
  wake(): void {
    this.#notified = true;
    this.#endWait?.();
  }

  async close(): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    this.wake();
    await client?.end();
  }

  async #quietly(work: (client: pg.Client) => Promise<unknown>): Promise<void> {
    try {
      this.#client ??= await this.#connect();
      await work(this.#client);
    } catch (err) {
      if (codeOf(err) === SQLSTATE.lockNotAvailable) return; // writers are at it: they notify, that is all
      this.#log.warn({ err }, 'lost the connection that listens');
      this.#askAgainAt = performance.now() + CONNECT_AGAIN_MS;
      this.#discard();
    }
  }

  /** An `acquire` connects anew. A dead connection is not waited for. */
  #discard(): void {
    const client = this.#client;
    this.#client = undefined;
    this.#isAwake = false;
    client?.end().catch(() => undefined);
  }

  async #connect(): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString: this.#url,
      application_name: 'outbox bridge listen',
      keepAlive: true,
      connectionTimeoutMillis: QUERY_TIMEOUT_MS,
      query_timeout: QUERY_TIMEOUT_MS,
      ...(this.#role === undefined ? {} : { options: `-c role=${this.#role}` }),
    });
    client.on('notification', () => this.wake());
    client.on('error', (err) => this.#log.warn({ err }, 'lost the connection that listens'));
    client.on('end', () => {
      if (this.#client !== client) return;
      this.#client = undefined;
      this.#isAwake = false;
    });
    try {
      await client.connect();
      await client.query(SESSION);
      return client;
    } catch (error) {
      client.end().catch(() => undefined);
      throw error;
    }
  }
}
