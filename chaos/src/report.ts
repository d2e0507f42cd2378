import { SECOND } from '@outbox/core';
import type { FaultRecord } from './faults/run.ts';
import type { Finding } from './invariants/index.ts';

/** What a run came to. */
export interface Report {
  seed: number;
  commit: string;
  durationMs: number;
  jobs: number;
  autoSyncs: number;
  texts: number;
  writes: number;
  /** How long the outbox took to become quiet after the last fault; undefined when it did not. Milliseconds. */
  quietAfterMs: number | undefined;
  faults: FaultSummary[];
  stepsHit: string[];
  stepsMissed: string[];
  slowestRecovery: { fault: string; ms: number } | undefined;
  slowestWrite: { what: string; ms: number } | undefined;
  /** Longest time in which the harness itself stood still: it is part of every duration it measured. */
  harnessLagMs: number;
  findings: Finding[];
}

export interface FaultSummary {
  kind: string;
  count: number;
  slowestRecoveryMs: number | undefined;
  /** How often it said so. */
  notes: Record<string, number>;
}

export function isBroken({ findings, quietAfterMs }: Report): boolean {
  return quietAfterMs === undefined || findings.some(({ kind, count }) => kind === 'must be 0' && count > 0);
}

export function summarize(records: FaultRecord[]): FaultSummary[] {
  const kinds = [...new Set(records.map(({ fault }) => fault.kind))].sort();
  return kinds.map((kind) => {
    const ofKind = records.filter(({ fault }) => fault.kind === kind);
    const recoveries = ofKind.flatMap(({ recoveredAfterMs }) => recoveredAfterMs ?? []);
    const notes: Record<string, number> = {};
    for (const { note } of ofKind) if (note !== undefined) notes[note] = (notes[note] ?? 0) + 1;
    return {
      kind,
      count: ofKind.length,
      slowestRecoveryMs: recoveries.length > 0 ? Math.max(...recoveries) : undefined,
      notes,
    };
  });
}

export function findSlowestRecovery(records: FaultRecord[]): Report['slowestRecovery'] {
  let slowest: Report['slowestRecovery'];
  for (const { fault, recoveredAfterMs: ms } of records) {
    if (ms !== undefined && ms > (slowest?.ms ?? -1)) slowest = { fault: fault.kind, ms };
  }
  return slowest;
}

export function toMarkdown(report: Report): string {
  const { findings, slowestRecovery, slowestWrite } = report;
  const faults = report.faults.reduce((sum, { count }) => sum + count, 0);
  const seconds = (ms: number | undefined) => (ms === undefined ? '–' : `${(ms / SECOND).toFixed(1)} s`);
  return [
    `# Chaos, seed ${report.seed}: ${isBroken(report) ? 'BROKEN' : 'all invariants held'}`,
    '',
    ...table(
      ['What', ''],
      [
        ['commit', report.commit],
        ['duration', seconds(report.durationMs)],
        ['auto syncs', report.autoSyncs],
        ['jobs', report.jobs],
        ['texts', report.texts],
        ['business writes', report.writes],
        ['faults', faults],
        ['quiet after the last fault', seconds(report.quietAfterMs)],
        ['slowest recovery', slowestRecovery ? `${seconds(slowestRecovery.ms)} (${slowestRecovery.fault})` : '–'],
        [
          'slowest business write while Postgres was up',
          slowestWrite ? `${Math.round(slowestWrite.ms)} ms (${slowestWrite.what})` : '–',
        ],
        ['longest standstill of the harness', `${Math.round(report.harnessLagMs)} ms`],
        [
          'killed at steps',
          `${report.stepsHit.length} of ${report.stepsHit.length + report.stepsMissed.length}${report.stepsMissed.length > 0 ? `, not at ${report.stepsMissed.join(', ')}` : ''}`,
        ],
      ],
    ),
    '',
    ...table(
      ['Invariant', 'Count', ''],
      findings.map(({ question, count, kind }) => [
        question,
        count,
        kind === 'told' ? '(told)' : count > 0 ? 'BROKEN' : 'ok',
      ]),
    ),
    '',
    ...table(
      ['Fault', 'Times', 'Slowest recovery', 'Notes'],
      report.faults.map(({ kind, count, slowestRecoveryMs, notes }) => [
        kind,
        count,
        seconds(slowestRecoveryMs),
        describeNotes(notes),
      ]),
    ),
    ...findings.filter(({ examples, count }) => count > 0 && examples.length > 0).flatMap(exampleLines),
    '',
  ].join('\n');
}

function describeNotes(notes: Record<string, number>): string {
  return Object.entries(notes)
    .map(([note, count]) => `${count} × ${note}`)
    .join('; ');
}

function exampleLines({ question, examples, count }: Finding): string[] {
  return ['', `**${question}** (${count}):`, '', ...examples.map((example) => `- ${example}`)];
}

function table(head: string[], rows: (string | number)[][]): string[] {
  const cells = [head, ...rows].map((row) => row.map((cell) => String(cell).replaceAll('|', '\\|')));
  const widths = head.map((_, column) => Math.max(...cells.map((row) => row[column]?.length ?? 0), 3));
  const line = (row: string[]) => `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  const [first = [], ...rest] = cells;
  return [line(first), `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`, ...rest.map(line)];
}
