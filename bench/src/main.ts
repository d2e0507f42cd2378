import { loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { ConfigError } from '@outbox/core';
import type { BenchCase } from './bench-case.ts';
import { cases } from './cases/index.ts';
import { writeResults } from './results.ts';

const [name = '', ...rest] = process.argv.slice(2);
const found = cases.find((one) => one.name === name);
if (found) await run(found, rest);
else {
  console.error(usage());
  process.exitCode = 1;
}

/** Exit code 1 when a goal was missed or the case could not be run. */
async function run(bench: BenchCase, typed: string[]): Promise<void> {
  const startedAt = new Date();
  const [loadBefore = 0] = loadavg();
  const say = (line: string) =>
    console.log(`${((Date.now() - startedAt.getTime()) / 1000).toFixed(1).padStart(7)} s  ${line}`);
  try {
    const args = readArgs(bench, typed);
    const settings = bench.settings.parse(args);
    const report = await bench.run(args, say);
    const command = ['npm run bench --', bench.name, ...typed].join(' ');
    await writeResults({ ...bench, command, settings, report, startedAt, loadBefore });
    for (const { text, met } of report.goals) say(`${met ? '✓' : '✗'} ${text}`);
    say('written to bench/RESULTS.md');
    if (report.goals.some(({ met }) => !met)) process.exitCode = 1;
  } catch (error) {
    console.error(error instanceof ConfigError ? error.message : error);
    process.exitCode = 1;
  }
}

function readArgs({ settings }: BenchCase, typed: string[]): Record<string, string | undefined> {
  const names = Object.keys(settings.shape);
  try {
    const { values } = parseArgs({
      args: typed,
      options: Object.fromEntries(names.map((name) => [name, { type: 'string' as const }])),
    });
    return values;
  } catch (error) {
    throw new ConfigError(`${error instanceof Error ? error.message : String(error)}\n\n${usage()}`);
  }
}

function usage(): string {
  const lines = cases.map(({ name, description, settings }) => {
    const options = Object.entries(settings.shape).map(([key, schema]) => {
      const { description: meaning = '' } = schema as { description?: string };
      return `      --${key.padEnd(12)} ${meaning}`;
    });
    return [`  ${name.padEnd(12)} ${description}`, ...options].join('\n');
  });
  return `Usage: npm run bench -- <case> [--setting value …]\n\n${lines.join('\n\n')}`;
}
