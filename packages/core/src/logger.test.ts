import { createLogger } from './logger.ts';

function setup(level = 'info') {
  const lines: string[] = [];
  const log = createLogger({ service: 'worker', level, destination: { write: (line) => void lines.push(line) } });
  return { log, lines, last: () => JSON.parse(lines.at(-1) ?? '{}') as Record<string, unknown> };
}

const SECRETS = {
  password: 'pa55word',
  token: 'pa55word',
  authToken: 'pa55word',
  secret: 'pa55word',
  authorization: 'Bearer pa55word',
  cookie: 'sid=pa55word',
  phone: '+15558675310',
  to: '+15558675310',
  body: 'Reminder for +15558675310',
};

describe('createLogger', () => {
  test.each(Object.entries(SECRETS))('%s is redacted, alone and one level down', (field, value) => {
    const { log, lines, last } = setup();
    log.info({ [field]: value, request: { [field]: value, id: 7 } }, 'called');
    expect(last()).toMatchObject({ [field]: '[redacted]', request: { [field]: '[redacted]', id: 7 } });
    expect(lines.join()).not.toMatch(/pa55word|8675310/);
  });

  test('what a child logger was given is redacted too', () => {
    const { log, lines, last } = setup();
    log.child({ phone: SECRETS.phone, jobId: '7' }).info('called');
    expect(last()).toMatchObject({ phone: '[redacted]', jobId: '7' });
    expect(lines.join()).not.toContain('8675310');
  });

  test('a line is one line of JSON: level as a word, service, ISO time, sentence, error with stack', () => {
    const { log, lines, last } = setup();
    log.warn({ err: new Error('two\nlines') }, 'attempt ended');
    expect(lines).toHaveLength(1);
    expect(lines[0]?.trimEnd()).not.toContain('\n');
    expect(last()).toMatchObject({
      level: 'warn',
      service: 'worker',
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/) as string,
      msg: 'attempt ended',
      err: { message: 'two\nlines', stack: expect.stringContaining('logger.test') as string },
    });
  });

  test('what is less severe than the level is not written', () => {
    const { log, lines } = setup('warn');
    log.info('quiet');
    log.warn('heard');
    expect(lines).toHaveLength(1);
  });
});
