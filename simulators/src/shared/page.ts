import type { Response } from 'express';
import type { LoggedRequest } from './request-log.ts';

/** Text of a cell, or text with a look: `text` keeps its line breaks, `fixed` is for ids and times, `bad` is for errors. */
export type Cell = string | { text: string; look: 'text' | 'fixed' | 'bad' };

/** What one provider was sent, newest first. */
export interface PageSection {
  title: string;
  /** How many of it there are, for the title of the page and the links to its parts. */
  count: number;
  summary: string;
  columns: string[];
  rows: Cell[][];
  /** Said instead of the table when there are no rows. */
  empty: string;
}

/** What most providers show: the requests they got, and in a line what they hold and which faults wait. */
export function requestSection(
  title: string,
  requests: LoggedRequest[],
  faults: { kind: string }[],
  holds: string[],
): PageSection {
  const waiting = faults.map(({ kind }) => kind).join(', ') || 'none';
  return {
    title,
    count: requests.length,
    summary: `${holds.join(' · ')} · faults waiting: ${waiting}.`,
    columns: ['Time', 'Request', 'Answer', 'Fault'],
    rows: requests
      .slice(-MAX_ROWS)
      .reverse()
      .map(({ at, method, path, status, fault }) => [
        { text: at, look: 'fixed' },
        { text: `${method} ${path}`, look: 'text' },
        status !== null && status < 400 ? String(status) : { text: String(status ?? 'reset'), look: 'bad' },
        fault ?? '',
      ]),
    empty: 'Nothing was asked yet.',
  };
}

/** Rows of each part; the whole list is to be had as JSON. */
export const MAX_ROWS = 200;

/** Sends a page that reloads itself every two seconds. It has no script and loads nothing. */
export function sendPage(response: Response, sections: PageSection[]): void {
  response.set('Content-Security-Policy', "default-src 'none'; style-src 'unsafe-inline'");
  response.type('html').send(renderPage(sections));
}

const STYLE = `
  body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2330; }
  h1 { font-size: 1.3rem; margin: 0; }
  nav { position: sticky; top: 0; display: flex; gap: 1.5rem; padding: .6rem 0; background: #fff; border-bottom: 1px solid #e4e7ec; }
  nav a { color: #175cd3; text-decoration: none; }
  section { padding-top: 3.25rem; margin-top: -1.25rem; overflow-x: auto; }
  section:only-of-type { padding-top: 0; margin-top: 0; }
  p { color: #5b6474; margin: .25rem 0 1.25rem; }
  table { border-collapse: collapse; width: 100%; }
  th, td { text-align: left; padding: .45rem .75rem; border-bottom: 1px solid #e4e7ec; vertical-align: top; }
  th { font-weight: 600; color: #5b6474; }
  td.text { white-space: pre-wrap; overflow-wrap: anywhere; }
  td.fixed { font: 13px/1.7 ui-monospace, monospace; white-space: nowrap; }
  td.bad { color: #b42318; }`;

/** One part for each provider; links to the parts when there are several. */
export function renderPage(sections: PageSection[]): string {
  const title = sections.map(({ title, count }) => `${title} (${count})`).join(' · ');
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<style>${STYLE}</style>
</head>
<body>
${sections.length > 1 ? renderLinks(sections) : ''}
${sections.map(renderSection).join('\n')}
</body>
</html>
`;
}

function renderLinks(sections: PageSection[]): string {
  const links = sections.map(
    ({ title, count }, index) => `<a href="#part-${index + 1}">${escapeHtml(title)} (${count})</a>`,
  );
  return `<nav>${links.join('')}</nav>`;
}

function renderSection({ title, summary, columns, rows, empty }: PageSection, index: number): string {
  const table = `<table>
<thead><tr>${columns.map((column) => `<th>${escapeHtml(column)}</th>`).join('')}</tr></thead>
<tbody>
${rows.slice(0, MAX_ROWS).map(renderRow).join('\n')}
</tbody>
</table>`;
  return `<section id="part-${index + 1}">
<h1>${escapeHtml(title)}</h1>
<p>${escapeHtml(summary)}</p>
${rows.length === 0 ? `<p>${escapeHtml(empty)}</p>` : table}
</section>`;
}

function renderRow(cells: Cell[]): string {
  return `<tr>${cells.map(renderCell).join('')}</tr>`;
}

function renderCell(cell: Cell): string {
  return typeof cell === 'string'
    ? `<td>${escapeHtml(cell)}</td>`
    : `<td class="${cell.look}">${escapeHtml(cell.text)}</td>`;
}

const ENTITIES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? character);
}
