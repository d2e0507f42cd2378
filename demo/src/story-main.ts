import { ConfigError, createPool, loadConfig, MINUTE, sharedSettings } from '@outbox/core';
import { prepareCast } from './cast.ts';
import { Narrator } from './narrator.ts';
import { playStory } from './story.ts';

/** The story as a process of its own, against services that run elsewhere: exits 0 once the auto sync is paused. */
async function main(): Promise<void> {
  const settings = loadConfig(sharedSettings.pick({ DATABASE_URL: true }), process.env);
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
  const scene = await playStory(pool, narrator, 'Friday climbing', AbortSignal.timeout(2 * MINUTE));
  await narrator.stop();
  say(`the end: ${scene.texted.length} people texted, auto sync ${scene.status}`);
  await pool.end();
}

main().catch((error: unknown) => {
  const text = error instanceof ConfigError ? error.message : error instanceof Error ? error.stack : String(error);
  process.stderr.write(`story: ${text}\n`);
  process.exit(1);
});
