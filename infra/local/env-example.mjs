/**
 * Writes .env.example from the schemas of the services, so that it cannot say anything else than they do.
 * `--check` writes nothing and fails when the file differs. Needs a build.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { apiSettings } from '../../services/api/dist/config.js';
import { bridgeSettings } from '../../services/bridge/dist/config.js';
import { workerSettings } from '../../services/worker/dist/config.js';

const file = join(import.meta.dirname, '../../.env.example');
const services = { bridge: bridgeSettings, worker: workerSettings, api: apiSettings };
const shared = Object.keys(bridgeSettings.shape).filter(
  (name) => name in apiSettings.shape && name in workerSettings.shape,
);

const text = [
  '# Every setting of the services, with its default. Blank means unset.',
  '# Written by "npm run env-example" from the schemas in services/*/src/config.ts.',
  section('All services', bridgeSettings, shared),
  ...Object.entries(services).map(([name, schema]) =>
    section(
      name,
      schema,
      Object.keys(schema.shape).filter((setting) => !shared.includes(setting)),
    ),
  ),
  section('npm run migrate (besides DATABASE_URL, OUTBOX_INSTANCE, QUEUE_BACKEND and FAMILIES)'),
  '# Delays the jobs get: production (hours) or demo (seconds)\n# TIMINGS=production',
].join('\n');

if (!process.argv.includes('--check')) writeFileSync(file, `${text}\n`);
else if (readFileSync(file, 'utf8') !== `${text}\n`) {
  console.error('.env.example differs from the schemas: run "npm run env-example".');
  process.exit(1);
}

function section(title, schema, names = []) {
  const settings = names.map((name) => describe(name, schema.shape[name]));
  return [`\n# --- ${title}`, ...settings].join('\n');
}

function describe(name, setting) {
  const byDefault = setting.safeParse(undefined);
  const value = byDefault.success ? asText(setting, byDefault.data) : '';
  // What has no default and is not optional must be set: its line is not a comment.
  const line = byDefault.success ? `# ${name}=${value}` : `${name}=`;
  return `\n# ${setting.description}\n${line}`;
}

/** The text that the schema reads as this value: a number of milliseconds may be written as 15s. */
function asText(setting, value) {
  if (value === undefined) return '';
  const number = Number(value);
  const candidates = Array.isArray(value)
    ? [value.join(',')]
    : [`${value}`, `${number / 3_600_000}h`, `${number / 60_000}m`, `${number / 1_000}s`, `${number}ms`];
  const same = (text) => JSON.stringify(setting.safeParse(text).data) === JSON.stringify(value);
  return candidates.find(same) ?? `${value}`;
}
