import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
type Fault =
  | { kind: 'status'; status: number; retryAfter?: string }
  | { kind: 'delay'; delayMs: number }
  | { kind: 'drop-before' }
  | { kind: 'html' };
export async function startGoliothSimulator() {
  const projects = new Map<string, { apiKey: string; devices: Map<string, Record<string, unknown>> }>();
  const faults: Fault[] = [];
  const requests: { method: string; path: string; url: string }[] = [];
  const server = createServer((req, res) => {
    const url = new URL(req.url ?? '', 'http://x');
    requests.push({ method: req.method ?? '', path: url.pathname, url: req.url ?? '' });
    const fault = faults.shift();
    const answer = (status: number, body: unknown, headers: Record<string, string> = {}) => {
      res.writeHead(status, { 'content-type': 'application/json', ...headers });
      res.end(JSON.stringify(body));
    };
    if (fault?.kind === 'status')
      return answer(
        fault.status,
        { code: 1, message: 'x', details: [] },
        fault.retryAfter ? { 'retry-after': fault.retryAfter } : {},
      );
    if (fault?.kind === 'drop-before') return void req.socket.destroy();
    if (fault?.kind === 'html') {
      res.writeHead(200, { 'content-type': 'text/html' });
      return void res.end('<html>');
    }
    const go = () => {
      const key = req.headers['x-api-key'];
      const id = decodeURIComponent(url.pathname.split('/')[3] ?? '');
      const project = projects.get(id);
      if (![...projects.values()].some((p) => p.apiKey === key))
        return answer(401, { code: 16, message: 'no', details: [] });
      if (!project || project.apiKey !== key) return answer(404, { code: 5, message: 'no', details: [] });
      const page = Number(url.searchParams.get('page') ?? 0),
        perPage = Number(url.searchParams.get('perPage') ?? 100);
      const all = [...project.devices.values()];
      answer(200, { list: all.slice(page * perPage, (page + 1) * perPage), page, perPage, total: all.length });
    };
    if (fault?.kind === 'delay') setTimeout(go, fault.delayMs).unref();
    else go();
  });
  await new Promise<void>((r) => server.listen(0, '127.0.0.1', r));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    addProject: (p: { id: string; apiKey: string }) =>
      void projects.set(p.id, { apiKey: p.apiKey, devices: new Map() }),
    setDevice: (p: string, d: { id: string } & Record<string, unknown>) =>
      void projects.get(p)?.devices.set(d.id, { hardwareIds: [], tagIds: [], enabled: true, ...d }),
    removeDevice: (p: string, id: string) => void projects.get(p)?.devices.delete(id),
    fault: (f: Fault) => void faults.push(f),
    requests: () => requests,
    close: () =>
      new Promise<void>((r) => {
        server.closeAllConnections();
        server.close(() => r());
      }),
  };
}
export type GoliothSimulator = Awaited<ReturnType<typeof startGoliothSimulator>>;
