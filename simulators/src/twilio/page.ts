import { statusOf, type StoredMessage } from './messages.ts';

/** Rows of the page; the whole list is at /messages. */
const MAX_ROWS = 200;

const STYLE = `
  body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2330; }
  h1 { font-size: 1.3rem; margin: 0; }
  p { color: #5b6474; margin: .25rem 0 1.25rem; }
  table { border-collapse: collapse; width: 100%; }
  th, td { text-align: left; padding: .45rem .75rem; border-bottom: 1px solid #e4e7ec; vertical-align: top; }
  th { font-weight: 600; color: #5b6474; }
  td.text { white-space: pre-wrap; overflow-wrap: anywhere; }
  td.fixed { font: 13px/1.7 ui-monospace, monospace; white-space: nowrap; }
  .undelivered { color: #b42318; }`;

export interface PageCounts {
  messages: number;
  refused: number;
  faults: number;
}

/** What was sent, newest first, as a page that reloads itself every two seconds. `messages` come oldest first. */
export function renderPage(messages: StoredMessage[], counts: PageCounts): string {
  const newest = messages.slice(-MAX_ROWS).reverse();
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SMS simulator (${counts.messages})</title>
<style>${STYLE}</style>
</head>
<body>
<h1>SMS simulator</h1>
<p>${counts.messages} sent · ${counts.refused} refused · ${counts.faults} faults waiting. Nothing here reaches a phone.</p>
<table>
<thead><tr><th>Time</th><th>To</th><th>Body</th><th>Sid</th><th>Status</th></tr></thead>
<tbody>
${newest.map(renderRow).join('\n') || '<tr><td colspan="5">Nothing was sent yet.</td></tr>'}
</tbody>
</table>
</body>
</html>
`;
}

function renderRow(message: StoredMessage): string {
  const status = statusOf(message);
  return (
    `<tr><td class="fixed">${message.receivedAt.toISOString()}</td><td class="fixed">${escapeHtml(message.to)}</td>` +
    `<td class="text">${escapeHtml(message.body)}</td><td class="fixed">${message.sid}</td>` +
    `<td class="${status}">${status}</td></tr>`
  );
}

const ENTITIES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? character);
}
