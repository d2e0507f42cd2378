import { SECOND } from '@outbox/core';
import type { Random } from '../random.ts';

/** Reminders and pause checks are due so long after their cause: see `stage.ts`, which tells the database. */
export const DELAY_MS = 4 * SECOND;

export interface PlannedSync {
  /** From 0; ids, phone numbers and names come from it. */
  n: number;
  /** Members of its crew, who belong to no other; true for who has a phone. */
  members: boolean[];
  goal: 'everyone' | 'critical_mass';
}

export type Status = 'running' | 'paused' | 'stopped' | 'completed';

interface Timed {
  /** Since the beginning of the run. */
  atMs: number;
}

/** A transaction that stays open for `holdMs` before it ends. */
interface Transaction {
  ending: 'commit' | 'rollback';
  holdMs: number;
}

export type Insert = Timed & Transaction & { kind: 'insert'; syncs: PlannedSync[] };
export type Answer = Timed & { kind: 'answer'; sync: number; member: number };
export type StatusChange = Timed & Transaction & { kind: 'status'; sync: number; to: Status };
export type Deletion = Timed & { kind: 'delete'; sync: number };
/** `POST /api/jobs`, sent `times` times with the same Idempotency-Key, whatever the answers. */
export type Request = Timed & { kind: 'request'; n: number; sync: number | undefined; times: number };

export type Action = Insert | Answer | StatusChange | Deletion | Request;

export interface BusinessPlan {
  syncs: PlannedSync[];
  /** In order of time. */
  actions: Action[];
}

const REQUESTS_PER_SECOND = 3;
const LONGEST_HOLD_MS = 4 * SECOND;

/** What users do in `durationMs`: about `rate` auto syncs a second, and what becomes of them. */
export function planBusiness(random: Random, { durationMs, rate }: { durationMs: number; rate: number }): BusinessPlan {
  const syncs: PlannedSync[] = [];
  const actions: Action[] = [];
  for (let atMs = 0; atMs < durationMs; atMs += random.gapMs(rate / MEAN_BATCH)) {
    const insert = planInsert(random, atMs, syncs.length);
    syncs.push(...insert.syncs);
    actions.push(insert);
    if (insert.ending === 'commit') {
      for (const sync of insert.syncs) actions.push(...planLife(random, sync, atMs + insert.holdMs));
    }
  }
  for (let atMs = 0, n = 0; atMs < durationMs; atMs += random.gapMs(REQUESTS_PER_SECOND), n += 1) {
    actions.push(planRequest(random, { atMs, n, syncsSoFar: Math.floor((atMs / SECOND) * rate * 0.8) }));
  }
  const inTime = actions.filter(({ atMs }) => atMs < durationMs).sort((a, b) => a.atMs - b.atMs);
  return { syncs, actions: inTime };
}

const BATCHES = [
  { weight: 70, min: 1, max: 1 },
  { weight: 25, min: 2, max: 5 },
  { weight: 5, min: 10, max: 30 },
];
const MEAN_BATCH = 0.7 * 1 + 0.25 * 3.5 + 0.05 * 20;

function planInsert(random: Random, atMs: number, firstN: number): Insert {
  const { min, max } = random.pickWeighted(BATCHES);
  const syncs = Array.from({ length: random.int(min, max) }, (_, index) => planSync(random, firstN + index));
  return { kind: 'insert', atMs, syncs, ...planTransaction(random, 0.06) };
}

function planSync(random: Random, n: number): PlannedSync {
  const members = Array.from({ length: random.int(1, 3) }, () => random.chance(0.93));
  return { n, members, goal: random.chance(0.7) ? 'everyone' : 'critical_mass' };
}

function planTransaction(random: Random, heldShare: number): Transaction {
  return {
    ending: random.chance(0.05) ? 'rollback' : 'commit',
    holdMs: random.chance(heldShare) ? random.int(200, LONGEST_HOLD_MS) : 0,
  };
}

function planLife(random: Random, sync: PlannedSync, bornMs: number): Action[] {
  const answers = sync.members.flatMap((_, member): Action[] =>
    random.chance(0.25) ? [{ kind: 'answer', atMs: bornMs + random.int(200, 12_000), sync: sync.n, member }] : [],
  );
  return random.chance(0.3) ? [...answers, ...planChanges(random, sync.n, bornMs)] : answers;
}

/** Paused (or ended, or deleted), often just when the reminder or the pause check is due; perhaps resumed; perhaps again. */
function planChanges(random: Random, sync: number, bornMs: number): Action[] {
  const dueMs = bornMs + DELAY_MS * random.int(1, 2);
  const firstMs = random.chance(0.5) ? dueMs + random.int(-60, 120) : bornMs + random.int(100, 12_000);
  if (random.chance(0.1)) return [{ kind: 'delete', atMs: firstMs, sync }];
  const to = random.pick(['paused', 'paused', 'stopped', 'completed'] as const);
  const first: StatusChange = { kind: 'status', atMs: firstMs, sync, to, ...planTransaction(random, 0.05) };
  if (random.chance(0.5)) return [first];

  const resumeMs = firstMs + first.holdMs + random.int(20, 6_000);
  const resume: StatusChange = { kind: 'status', atMs: resumeMs, sync, to: 'running', ...planTransaction(random, 0) };
  if (random.chance(0.8)) return [first, resume];
  const again: Action = { ...first, atMs: resumeMs + random.int(20, 6_000), holdMs: 0, ending: 'commit' };
  return [first, resume, again];
}

function planRequest(random: Random, about: { atMs: number; n: number; syncsSoFar: number }): Request {
  const { atMs, n, syncsSoFar } = about;
  const sync = syncsSoFar > 0 && random.chance(0.5) ? random.int(0, syncsSoFar) : undefined;
  return { kind: 'request', atMs, n, sync, times: random.chance(0.4) ? random.int(2, 4) : 1 };
}
