import { ConfigError, createPool, loadConfig, MINUTE, sharedSettings } from '@outbox/core';
import { familiesSetting } from '@outbox/jobs';
import { playActs } from './acts.ts';
import { prepareCast } from './cast.ts';
import { Narrator } from './narrator.ts';
import { playStory } from './story.ts';

/** The story as a process of its own, against services that run elsewhere: exits 0 once the auto sync is paused. */
async function main(): Promise<void> {
  const settings = loadConfig(sharedSettings.pick({ DATABASE_URL: true }).extend(familiesSetting), process.env);
  const say = (line: string) => process.stdout.write(`story: ${line}\n`);
  const pool = createPool({
    url: settings.DATABASE_URL,
    applicationName: 'outbox story',
    max: 2,
    onError: (error) => say(error.message),
  });
  await prepareCast(pool);
  const narrator = new Narrator(pool, say);
  await narrator.start();
  const inTime = AbortSignal.timeout(2 * MINUTE);
  const others = playActs(pool, settings.FAMILIES, say, inTime);
  const scene = settings.FAMILIES.includes('reminders')
    ? await playStory(pool, narrator, 'Friday climbing', inTime)
    : undefined;
  await others;
  await narrator.stop();
  say(scene ? `the end: ${scene.texted.length} people texted, auto sync ${scene.status}` : 'the end');
  await pool.end();
}

main().catch((error: unknown) => {
  const text = error instanceof ConfigError ? error.message : error instanceof Error ? error.stack : String(error);
  process.stderr.write(`story: ${text}\n`);
  process.exit(1);
});
