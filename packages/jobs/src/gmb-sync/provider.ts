import type { ProviderDefinition } from '@outbox/core';

/**
 * Google gives a Cloud project 300 requests a minute of each of its Business Profile APIs, all tenants together. One limit
 * for all of them, and a fifth less: how the minute is cut is Google's business, calls that we space evenly may arrive in
 * bunches, and other programs of the same project (a page that answers a review) want some of it. 240 a minute is one call
 * every 250 ms, at most.
 */
export const google: ProviderDefinition = {
  name: 'google',
  requestsPerMinute: 240,
  description: 'Google Business Profile',
};
