import { MAX_ROWS, type PageSection } from '../shared/page.ts';
import { statusOf } from './messages.ts';
import type { TwilioStores } from './stores.ts';

/** What was sent, newest first. */
export function describeSection({ messages, requests, faults }: TwilioStores): PageSection {
  const refused = requests.all().filter(({ method, sid }) => method === 'POST' && sid === null).length;
  return {
    title: 'SMS simulator',
    count: messages.size,
    summary: `${messages.size} sent · ${refused} refused · ${faults.all().length} faults waiting. Nothing here reaches a phone.`,
    columns: ['Time', 'To', 'Body', 'Sid', 'Status'],
    rows: messages
      .all()
      .slice(-MAX_ROWS)
      .reverse()
      .map((message) => [
        { text: message.receivedAt.toISOString(), look: 'fixed' },
        { text: message.to, look: 'fixed' },
        { text: message.body, look: 'text' },
        { text: message.sid, look: 'fixed' },
        statusOf(message) === 'undelivered' ? { text: 'undelivered', look: 'bad' } : statusOf(message),
      ]),
    empty: 'Nothing was sent yet.',
  };
}
