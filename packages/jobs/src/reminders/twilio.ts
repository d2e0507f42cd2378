import type { ProviderDefinition } from '@outbox/core';

/** Sends the texts of all organizers from one account. Its own queues pace them, and it says so when they are full. */
export const twilio: ProviderDefinition = { name: 'twilio', description: 'Texts (Programmable Messaging)' };
