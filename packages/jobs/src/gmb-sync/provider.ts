import type { ProviderDefinition } from '@outbox/core';

/**
 * Google gives a Cloud project 300 requests a minute of each of its Business Profile APIs, all tenants together. One limit
 * for all of them and for the token endpoint, which Google does not count: what we ask of a single API is always less.
 */
export const google: ProviderDefinition = {
  name: 'google',
  requestsPerMinute: 300,
  description: 'Google Business Profile',
};
