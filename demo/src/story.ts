import { setTimeout as wait } from 'node:timers/promises';
import { SECOND, type Queryable } from '@outbox/core';
import { answer, startAutoSync } from './cast.ts';
import type { Narrator, Scene } from './narrator.ts';

/** Who has not answered when the reminder is due gets a text; somebody should answer first. */
const ANSWER_AFTER_MS = 2 * SECOND;

/**
 * The product in half a minute: an auto sync is inserted, one of four answers, the other three are texted, nobody else
 * answers, the auto sync is paused. Resolves with the last scene. It only writes what the host application would write;
 * everything else happens by itself.
 */
export async function playStory(
  db: Queryable,
  narrator: Narrator,
  eventName: string,
  signal: AbortSignal,
): Promise<Scene> {
  const autoSyncId = await startAutoSync(db, eventName);
  await wait(ANSWER_AFTER_MS, undefined, { signal });
  await answer(db, autoSyncId);
  return narrator.until(autoSyncId, isOver, signal);
}

function isOver({ status, jobs }: Scene): boolean {
  return status !== 'running' && jobs.length > 1 && jobs.every(({ state }) => !/pending|published|active/.test(state));
}
