import { captureLogs } from '@outbox/testing';
import { runPhases, type ShutdownPhase } from './service.ts';

function setup() {
  const { log, lines } = captureLogs();
  const stopped: string[] = [];
  const phase = (name: string, stop: ShutdownPhase['stop'] = () => undefined, deadlineMs = 5_000): ShutdownPhase => ({
    name,
    deadlineMs,
    stop: () => {
      stopped.push(name);
      return stop();
    },
  });
  return { log, lines, stopped, phase };
}

describe('runPhases', () => {
  test('phases run one after the other, each waiting for the one before', async () => {
    const { log, lines, stopped, phase } = setup();
    const slowly = async () => {
      await Promise.resolve();
      stopped.push('intake done');
    };
    await runPhases([phase('intake', slowly), phase('pools')], log);
    expect(stopped).toEqual(['intake', 'intake done', 'pools']);
    expect(lines).toEqual([]);
  });

  test('a phase that hangs does not stop the next, and is named in the log', async () => {
    const { log, lines, stopped, phase } = setup();
    await runPhases([phase('workers', () => new Promise(() => undefined), 20), phase('pools')], log);
    expect(stopped).toEqual(['workers', 'pools']);
    expect(lines).toMatchObject([
      { level: 'error', phase: 'workers', err: { message: 'workers took longer than 20 ms' } },
    ]);
  });

  test('a phase that fails does not stop the next, and its error is in the log', async () => {
    const { log, lines, stopped, phase } = setup();
    await runPhases([phase('workers', () => Promise.reject(new Error('gone'))), phase('pools')], log);
    expect(stopped).toEqual(['workers', 'pools']);
    expect(lines).toMatchObject([{ level: 'error', phase: 'workers', err: { message: 'gone' } }]);
  });

  test('a phase that throws at once does not stop the next either', async () => {
    const { log, lines, stopped, phase } = setup();
    const throwing = () => {
      throw new Error('never started');
    };
    await runPhases([phase('workers', throwing), phase('pools')], log);
    expect(stopped).toEqual(['workers', 'pools']);
    expect(lines).toMatchObject([{ level: 'error', phase: 'workers', err: { message: 'never started' } }]);
  });
});
