import { basename } from 'node:path';
import { TestEnvironment } from 'jest-environment-node';
import { killServices, type StartedServices } from './test-globals.ts';

/** What is read of an event of Jest's test runner. */
interface TestEvent {
  name: string;
  test?: { errors: unknown[] };
}

/**
 * Jest gives each test file globals of its own, so an error from Node itself (a refused connection) is no `Error` there,
 * and code under test would take another branch than in production. These classes are made to know their namesakes.
 */
const ERROR_CLASSES = { Error, AggregateError, TypeError, RangeError };

/**
 * Kills the services a test has left running, and fails that test for it: only the environment hears of a test's end
 * after all its hooks. What a file started in `beforeAll` is looked for at the end of the file.
 */
export default class OutboxEnvironment extends TestEnvironment {
  readonly #services: StartedServices = new Map();
  #before = new Set<number>();

  readonly #testFile: string;

  constructor(...[config, context]: ConstructorParameters<typeof TestEnvironment>) {
    super(config, context);
    this.#testFile = basename(context.testPath);
  }

  override async setup(): Promise<void> {
    await super.setup();
    this.global.outboxTestFile = this.#testFile;
    this.global.outboxStartedServices = this.#services;
    for (const [name, nodes] of Object.entries(ERROR_CLASSES)) recognize(this.global[name], nodes);
  }

  handleTestEvent({ name, test }: TestEvent): void {
    if (name === 'test_start') this.#before = new Set(this.#services.keys());
    if (name !== 'test_done') return;
    const left = killServices(this.#services, (pid) => !this.#before.has(pid));
    // A test that failed may not have come to its clean-up: its own error is the one to read.
    if (left.length > 0 && test?.errors.length === 0) test.errors.push(leak(left));
  }

  override async teardown(): Promise<void> {
    const left = killServices(this.#services, () => true);
    await super.teardown();
    if (left.length > 0) throw leak(left);
  }
}

function leak(left: string[]): Error {
  return new Error(`Left running, now killed: ${left.join(', ')}. Stop what the test starts with kill().`);
}

/** `x instanceof inner` also holds for instances of `outer`. Classes derived from `inner` are left as they are. */
function recognize(inner: unknown, outer: abstract new (...args: never[]) => unknown): void {
  if (typeof inner !== 'function') return;
  const usual = Function.prototype[Symbol.hasInstance];
  Object.defineProperty(inner, Symbol.hasInstance, {
    value(this: unknown, value: unknown) {
      return usual.call(this as () => void, value) || (this === inner && value instanceof outer);
    },
  });
}
