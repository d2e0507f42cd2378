import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { z } from 'zod';

const secretsSchema = z.object({ serviceKey: z.string(), boardPassword: z.string(), sessionSecret: z.string() });

export type Secrets = z.output<typeof secretsSchema>;

/** The secrets of this folder's demonstration: made once, readable by this user alone, the same at every start. */
export async function loadSecrets(file: string): Promise<Secrets> {
  const text = await readFile(file, 'utf8').catch(() => undefined);
  const known = text === undefined ? undefined : secretsSchema.safeParse(JSON.parse(text)).data;
  if (known) return known;
  const secrets = {
    serviceKey: `sb_secret_${randomBytes(18).toString('base64url')}`,
    boardPassword: randomBytes(9).toString('base64url'),
    sessionSecret: randomBytes(32).toString('base64url'),
  };
  await writeFile(file, JSON.stringify(secrets, null, 2), { mode: 0o600 });
  return secrets;
}
