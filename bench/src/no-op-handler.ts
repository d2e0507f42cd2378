/**
 * Loaded before a worker (`node --import`): its pause checks do nothing. What is measured is the engine, and what runs is
 * the process that ships.
 */
import { done } from '@outbox/core';
import { pauseCheck } from '@outbox/jobs';
import { handlers } from '@outbox/jobs/handlers';
import { started } from './starts.ts';

handlers[pauseCheck.name] = ({ autoSyncId }) => {
  started(autoSyncId);
  return Promise.resolve(done());
};
