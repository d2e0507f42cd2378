import { REFUSED, UnreadablePageError } from './google-errors.ts';
import type { Page } from './google-pages.ts';
import { isRefused } from './tokens.ts';

/**
 * The pages of a list, one after the other. Pages are no snapshot: an item may come twice or, when it moves while we read,
 * not at all. A page token that Google does not take any more begins the list anew, once. Throws what `fetchPage` throws.
 */
export async function* pagesOf<P extends Page<unknown>>(
  what: string,
  fetchPage: (pageToken: string | undefined) => Promise<P>,
): AsyncGenerator<P, void, undefined> {
  const used = new Set<string>();
  let isSecondTime = false;
  let pageToken: string | undefined;
  for (;;) {
    let page: P;
    try {
      page = await fetchPage(pageToken);
    } catch (error) {
      if (pageToken === undefined || isSecondTime || !isRefused(error, REFUSED.argument)) throw error;
      isSecondTime = true;
      pageToken = undefined;
      used.clear();
      continue;
    }
    yield page;
    pageToken = page.nextPageToken;
    if (pageToken === undefined) return;
    // Otherwise a list that leads back to one of its pages would keep us until the time-out.
    if (used.has(pageToken)) throw new UnreadablePageError(what);
    used.add(pageToken);
  }
}
