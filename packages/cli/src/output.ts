/** What a cell may hold; instants are printed in UTC. */
export type Cell = string | number | boolean | Date | null | undefined;

const EMPTY = '–';
const WIDEST_CELL = 60;

/** Prints records: as one JSON array for programs, as a table with these columns for people. */
export function printRecords<Name extends string>(
  records: readonly Record<Name, Cell>[],
  columns: Record<Name, string>,
  { json = false, none }: { json?: boolean | undefined; none: string },
): void {
  if (json) print(JSON.stringify(records, null, 2));
  else if (records.length === 0) print(none);
  else print(tableOf(records, columns));
}

/** One object for programs, or a sentence for people. */
export function printResult(result: Record<string, unknown>, sentence: string, json = false): void {
  print(json ? JSON.stringify(result, null, 2) : sentence);
}

export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

function tableOf<Name extends string>(records: readonly Record<Name, Cell>[], columns: Record<Name, string>): string {
  const names = Object.keys(columns) as Name[];
  const head = names.map((name) => columns[name]);
  const rows = [head, ...records.map((record) => names.map((name) => toText(record[name])))];
  const last = names.length - 1;
  const texts = rows.map((row) => row.map((text, column) => (column === last ? text : shorten(text))));
  const widths = names.map((_name, column) => Math.max(...texts.map((row) => row[column]?.length ?? 0)));
  return texts
    .map((row) =>
      row
        .map((text, column) => text.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** In one line and without control characters: what a provider said must not move a cursor. */
function toText(value: Cell): string {
  if (value === null || value === undefined || value === '') return EMPTY;
  const text = value instanceof Date ? value.toISOString() : String(value);
  return text.replaceAll(/[\p{Cc}\s]+/gu, ' ');
}

/** Of every column but the last, which says why and what to do. */
function shorten(text: string): string {
  return text.length > WIDEST_CELL ? `${text.slice(0, WIDEST_CELL - 1)}…` : text;
}
