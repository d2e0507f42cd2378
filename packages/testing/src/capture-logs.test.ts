import { captureLogs } from './capture-logs.ts';

describe('captureLogs', () => {
  it('collects every line of every level, parsed', () => {
    const { log, lines } = captureLogs();
    log.trace({ jobId: '7' }, 'claimed');
    log.error({ err: new Error('gone') }, 'failed');
    expect(lines).toMatchObject([
      { level: 'trace', service: 'test', msg: 'claimed', jobId: '7' },
      { level: 'error', msg: 'failed', err: { message: 'gone' } },
    ]);
  });

  it('shows what production redacts as redacted', () => {
    const { log, lines } = captureLogs();
    log.info({ phone: '+15550100' }, 'sent');
    expect(lines).toMatchObject([{ phone: '[redacted]' }]);
  });
});
