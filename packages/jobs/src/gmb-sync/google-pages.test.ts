import type { ProviderAnswer } from '@outbox/core';
import { UnreadablePageError } from './google-errors.ts';
import { parseAccounts, parseLocations, parseReviews } from './google-pages.ts';

const answer = (body: unknown): ProviderAnswer => ({ status: 200, headers: new Headers(), body });

const REVIEW = {
  name: 'accounts/1/locations/2/reviews/AbF',
  reviewId: 'AbF',
  reviewer: { displayName: 'A', isAnonymous: false },
  starRating: 'FOUR',
  comment: 'Good',
  createTime: '2026-07-01T10:00:00Z',
  updateTime: '2026-07-02T10:00:00.123456Z',
  reviewReply: { comment: 'Thank you', updateTime: '2026-07-02T10:00:00Z', reviewReplyState: 'APPROVED' },
};

test.each([
  ['accounts', parseAccounts],
  ['locations', parseLocations],
  ['reviews', parseReviews],
])('an empty list of %s comes as an empty object', (_what, parse) => {
  expect(parse(answer({}))).toMatchObject({ items: [], unreadable: 0, nextPageToken: undefined });
});

test.each([
  ['no body', undefined],
  ['a list', []],
  ['a text', 'Bad gateway'],
  ['a list that is none', { reviews: { name: 'x' } }],
  ['a page token that is none', { reviews: [], nextPageToken: 7 }],
])('nothing can be concluded from %s', (_what, body) => {
  expect(() => parseReviews(answer(body))).toThrow(UnreadablePageError);
});

test('a blank page token is the end of the list', () => {
  expect(parseLocations(answer({ nextPageToken: '' })).nextPageToken).toBeUndefined();
  expect(parseLocations(answer({ nextPageToken: 'p2' })).nextPageToken).toBe('p2');
});

describe('a review', () => {
  test('is read in our words, and all that Google said is kept', () => {
    const page = parseReviews(answer({ reviews: [REVIEW], totalReviewCount: 120, averageRating: 4.6 }));
    expect(page).toMatchObject({ unreadable: 0, totalReviewCount: 120 });
    expect(page.items).toEqual([
      {
        name: REVIEW.name,
        reviewer: 'A',
        rating: 4,
        comment: 'Good',
        reply: 'Thank you',
        repliedAt: REVIEW.reviewReply.updateTime,
        createdAt: REVIEW.createTime,
        updatedAt: REVIEW.updateTime,
        data: REVIEW,
      },
    ]);
  });

  test('without a text, a reply or a name is one all the same, and fields nobody knows yet are no obstacle', () => {
    const { name, updateTime } = REVIEW;
    const page = parseReviews(
      answer({ reviews: [{ name, updateTime, starRating: 'SIX', reviewReply: 7, newField: {} }] }),
    );
    expect(page.items).toMatchObject([{ reviewer: null, rating: null, comment: null, reply: null }]);
  });

  test.each([
    ['its name', { ...REVIEW, name: undefined }],
    ['a name that is a review’s', { ...REVIEW, name: 'locations/2' }],
    ['when it changed', { ...REVIEW, updateTime: 'yesterday' }],
    ['anything', null],
  ])('that does not say %s is counted and left out, and the rest is read', (_what, poisoned) => {
    const page = parseReviews(answer({ reviews: [poisoned, REVIEW], nextPageToken: 'p2' }));
    expect(page).toMatchObject({ items: [{ name: REVIEW.name }], unreadable: 1, nextPageToken: 'p2' });
  });
});

test('of a location all is kept, and one without a name is left out', () => {
  const location = { name: 'locations/2', title: 'Bakery', metadata: { placeId: 'p' }, newField: 1 };
  const page = parseLocations(answer({ locations: [location, { title: 'Nobody' }] }));
  expect(page).toMatchObject({ items: [location], unreadable: 1 });
});

test('of accounts only the names are read', () => {
  const page = parseAccounts(answer({ accounts: [{ name: 'accounts/1', accountName: 'B' }, { name: 'x' }] }));
  expect(page).toMatchObject({ items: ['accounts/1'], unreadable: 1 });
});
