import { execFileSync } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { format, resolveConfig } from 'prettier';
import type { Chart, Report, Table } from './bench-case.ts';

const FILE = join(import.meta.dirname, '../RESULTS.md');

/** Raw data and pictures of the runs that RESULTS.md tells of. */
const FOLDER = join(import.meta.dirname, '../results');

/** Plain JavaScript, since its library is a dependency of the benchmarks alone, which the rest is built without. */
const DRAW = new URL('../charts/draw.mjs', import.meta.url).href;

const HEAD = `# Results

Written by \`npm run bench -- <case>\`: a run replaces its own section. How to run each: [README.md](README.md).
`;

/** What a run was and what it gave. */
export interface Section {
  name: string;
  description: string;
  /** As typed: what differs from the defaults. */
  command: string;
  settings: Record<string, unknown>;
  report: Report;
  startedAt: Date;
  /** Of the machine when the case began: what else was running is part of the figure. */
  loadBefore: number;
}

/**
 * Puts the section of a case into RESULTS.md, in place of what an earlier run left; the same as data and the pictures into
 * the folder beside it.
 */
export async function writeResults(section: Section): Promise<void> {
  await mkdir(FOLDER, { recursive: true });
  const { name, report } = section;
  const data = { ...section, machine: machineOf(section) };
  await writeFile(join(FOLDER, `${name}.json`), `${JSON.stringify(data, null, 2)}\n`);
  const { draw } = (await import(DRAW)) as { draw: (chart: Chart) => Promise<string> };
  for (const chart of report.charts ?? []) {
    await writeFile(join(FOLDER, `${name}-${chart.name}.svg`), await draw(chart));
  }
  const before = await readFile(FILE, 'utf8').catch(() => HEAD);
  const [begin, end] = [`<!-- ${section.name} -->`, `<!-- end of ${section.name} -->`];
  const text = `${begin}\n\n${toMarkdown(section)}\n\n${end}`;
  const from = before.indexOf(begin);
  const to = before.indexOf(end);
  const after =
    from >= 0 && to > from ? before.slice(0, from) + text + before.slice(to + end.length) : `${before}\n${text}\n`;
  const style = await resolveConfig(FILE);
  await writeFile(FILE, await format(after, { ...style, parser: 'markdown' }));
}

function machineOf({ command, settings, report, startedAt, loadBefore }: Section): Record<string, string> {
  return {
    When: startedAt.toISOString(),
    Commit: commit(),
    Machine: `${cpus().length} cores (${cpus()[0]?.model ?? 'unknown'}), ${Math.round(totalmem() / 2 ** 30)} GiB`,
    'Load before': `${loadBefore.toFixed(1)} (other work on the machine takes from the figures)`,
    'Node.js': process.version,
    ...report.servers,
    Command: `\`${command}\``,
    Settings: Object.entries(settings)
      .map(([key, value]) => `${key} ${String(value)}`)
      .join(', '),
  };
}

function toMarkdown(section: Section): string {
  const { name, description, report } = section;
  return [
    `## ${name}`,
    description,
    report.goals.map(({ text, met }) => `- ${met ? '✓' : '✗'} ${text}`).join('\n'),
    ...(report.charts ?? []).map((chart) => `![${chart.title}](results/${name}-${chart.name}.svg)`),
    ...report.tables.map((table) => `${table.title}\n\n${toTable(table)}`),
    report.notes.join('\n\n'),
    toTable({ title: '', columns: ['', ''], rows: Object.entries(machineOf(section)) }),
  ].join('\n\n');
}

function toTable({ columns, rows }: Table): string {
  const line = (cells: readonly unknown[]) => `| ${cells.map(String).join(' | ')} |`;
  return [line(columns), line(columns.map(() => '---')), ...rows.map(line)].join('\n');
}

function commit(): string {
  const git = (...args: string[]) =>
    execFileSync('git', args, {
      cwd: import.meta.dirname,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  try {
    const changed = git('status', '--porcelain', '--', '../../services', '../../packages', '../../infra');
    return git('rev-parse', '--short', 'HEAD') + (changed === '' ? '' : ', with changes');
  } catch {
    return 'unknown';
  }
}
