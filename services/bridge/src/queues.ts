import type { QueueBackend } from '@outbox/core';
import type { Queue } from 'bullmq';

export interface Queues {
  /** The queue of that name; each is opened once. */
  queueOf: (name: string) => Queue;
  close: () => Promise<void>;
}

export function createQueues(backend: QueueBackend): Queues {
  const queues = new Map<string, Queue>();
  const queueOf = (name: string) => {
    const queue = queues.get(name) ?? backend.createQueue(name);
    queues.set(name, queue);
    return queue;
  };
  return {
    queueOf,
    close: async () => void (await Promise.all([...queues.values()].map((queue) => queue.close()))),
  };
}
