import { execFileSync } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { format, resolveConfig } from 'prettier';
import type { Report, Table } from './bench-case.ts';

const FILE = join(import.meta.dirname, '../RESULTS.md');

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

/** Puts the section of a case into RESULTS.md, in place of what an earlier run left. */
export async function writeResults(section: Section): Promise<void> {
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

function toMarkdown({ name, description, command, settings, report, startedAt, loadBefore }: Section): string {
  const machine = {
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
  return [
    `## ${name}`,
    description,
    report.goals.map(({ text, met }) => `- ${met ? '✓' : '✗'} ${text}`).join('\n'),
    ...report.tables.map((table) => `${table.title}\n\n${toTable(table)}`),
    report.notes.join('\n\n'),
    toTable({ title: '', columns: ['', ''], rows: Object.entries(machine) }),
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
