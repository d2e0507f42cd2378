interface Waiting<Input, Output> {
  input: Input;
  resolve: (output: Output) => void;
  reject: (error: unknown) => void;
}

export interface MicroBatchOptions<Input, Output> {
  /** Most inputs of one call. More wait for the next. */
  maxSize: number;
  /** Answers every input, in order. It may throw: then each input of the batch is tried once more, alone. */
  runBatch: (inputs: Input[]) => Promise<Output[]>;
}

/**
 * Turns many small calls into few large ones without holding any back: when nothing is under way a call leaves at once
 * (together with those of the same turn of the event loop); while a batch is under way, newcomers gather for the next.
 *
 * A batch that throws is retried one by one, so that one bad input fails alone. `runBatch` must therefore be safe to
 * repeat. The returned function rejects only with the error of its own input.
 */
export function microBatch<Input, Output>(
  options: MicroBatchOptions<Input, Output>,
): (input: Input) => Promise<Output> {
  let waiting: Waiting<Input, Output>[] = [];
  let scheduled = false;
  let underWay = false;

  async function settle(batch: Waiting<Input, Output>[]): Promise<void> {
    try {
      const outputs = await options.runBatch(batch.map(({ input }) => input));
      batch.forEach(({ resolve }, index) => resolve(outputs[index] as Output));
    } catch (error) {
      if (batch.length === 1) batch[0]?.reject(error);
      else for (const single of batch) await settle([single]);
    }
  }

  async function drain(): Promise<void> {
    scheduled = false;
    if (underWay) return;
    underWay = true;
    while (waiting.length > 0) {
      const batch = waiting.slice(0, options.maxSize);
      waiting = waiting.slice(options.maxSize);
      await settle(batch);
    }
    underWay = false;
  }

  return (input) =>
    new Promise((resolve, reject) => {
      waiting.push({ input, resolve, reject });
      if (scheduled || underWay) return;
      scheduled = true;
      setImmediate(() => void drain());
    });
}
