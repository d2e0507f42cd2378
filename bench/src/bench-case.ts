import { loadConfig } from '@outbox/core';
import type { z } from 'zod';

/** A figure of the report, in the order of its table's columns. */
export type Cell = string | number;

export interface Table {
  title: string;
  columns: string[];
  rows: Cell[][];
}

/** What was promised, and whether it came true; one that did not makes the run fail. */
export interface Goal {
  text: string;
  met: boolean;
}

/** A picture of some of the figures: a bar for each point, longest first or as they come. */
export interface Chart {
  /** Part of its file's name. */
  name: string;
  title: string;
  /** What the figures are. */
  unit: string;
  /** True when the figures lie orders of magnitude apart. */
  logarithmic?: boolean;
  bars: { label: string; figure: number }[];
}

export interface Report {
  goals: Goal[];
  tables: Table[];
  charts?: Chart[];
  /** Sentences a reader needs to judge the figures. */
  notes: string[];
  /** Versions of the servers and what they were set to. */
  servers: Record<string, string>;
}

export interface BenchCase {
  readonly name: string;
  /** One line. */
  readonly description: string;
  readonly settings: z.ZodObject;
  /** `args` are the settings as a person typed them. Throws `ConfigError` when one is wrong. */
  run(args: Record<string, string | undefined>, say: (line: string) => void): Promise<Report>;
}

/** Declares a case: its settings with their defaults, and what it does. */
export function defineCase<Settings extends z.ZodObject>(definition: {
  name: string;
  description: string;
  settings: Settings;
  run: (settings: Readonly<z.output<Settings>>, say: (line: string) => void) => Promise<Report>;
}): BenchCase {
  const { settings, run } = definition;
  return { ...definition, run: (args, say) => run(loadConfig(settings, args), say) };
}
