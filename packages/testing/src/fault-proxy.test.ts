import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { startFaultProxy, type FaultProxy } from './fault-proxy.ts';
import { waitFor } from './wait-for.ts';

let server: Server;
let accepted: Socket[];
let proxy: FaultProxy;
let clients: Socket[];

/** A server that answers whatever it hears with the same. */
beforeEach(async () => {
  accepted = [];
  clients = [];
  server = createServer((socket) => {
    accepted.push(socket.on('error', () => undefined));
    socket.pipe(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  proxy = await startFaultProxy(`redis://127.0.0.1:${(server.address() as AddressInfo).port}/3`);
});

afterEach(async () => {
  for (const socket of clients) socket.destroy();
  await proxy.close();
  await proxy.close();
  server.close();
  await once(server, 'close');
});

async function open(): Promise<{ socket: Socket; heard: () => string }> {
  const { port, hostname } = new URL(proxy.url);
  const socket = connect(Number(port), hostname).on('error', () => undefined);
  clients.push(socket);
  let heard = '';
  socket.on('data', (data) => (heard += data.toString()));
  await once(socket, 'connect');
  return { socket, heard: () => heard };
}

it('passes everything on, in order, also much more than it holds back', async () => {
  const { socket, heard } = await open();
  const long = 'x'.repeat(8 * 1024 * 1024);
  socket.write(`${long}end`);
  await waitFor(() => expect(heard()).toHaveLength(long.length + 3));
  expect(heard().endsWith('xend')).toBe(true);
});

it('names the target in its URL, with an address of its own', () => {
  expect(proxy.url).toMatch(/^redis:\/\/127\.0\.0\.1:\d+\/3$/);
});

it('a cut breaks what is open and refuses what is new, until it is restored at the same address', async () => {
  const { socket } = await open();
  const { url } = proxy;
  const broken = once(socket, 'close');
  await proxy.cut();
  await broken;
  await expect(open()).rejects.toThrow('ECONNREFUSED');

  await proxy.restore();
  const again = await open();
  again.socket.write('hello');
  await waitFor(() => expect(again.heard()).toBe('hello'));
  expect(proxy.url).toBe(url);
});

it('silence keeps connections, old and new, and lets nothing through; afterwards it all arrives', async () => {
  const old = await open();
  await waitFor(() => expect(accepted).toHaveLength(1));
  proxy.silence();
  const fresh = await open();
  old.socket.write('old');
  fresh.socket.write('new');
  const quitter = await open();
  quitter.socket.end('last words');
  await waitFor(() => expect(accepted).toHaveLength(3));
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect([old.heard(), fresh.heard()]).toEqual(['', '']);
  expect(accepted.map((socket) => socket.bytesRead)).toEqual([0, 0, 0]);

  await proxy.restore();
  await waitFor(() => expect([old.heard(), fresh.heard()]).toEqual(['old', 'new']));
  await waitFor(() => expect(accepted[2]?.bytesRead).toBe('last words'.length));
  await waitFor(() => expect(accepted[2]?.destroyed).toBe(true));
});

it('only what is open now can be silenced, too; new connections work', async () => {
  const old = await open();
  await waitFor(() => expect(accepted).toHaveLength(1));
  proxy.silenceOpen();
  old.socket.write('old');
  const fresh = await open();
  fresh.socket.write('new');
  await waitFor(() => expect(fresh.heard()).toBe('new'));
  expect(accepted[0]?.bytesRead).toBe(0);
  await proxy.restore();
  await waitFor(() => expect(old.heard()).toBe('old'));
});

it('a delay holds each way back by so much and keeps the order', async () => {
  const { socket, heard } = await open();
  proxy.delay(40);
  const started = performance.now();
  socket.write('one ');
  socket.write('two');
  await waitFor(() => expect(heard()).toBe('one two'));
  expect(performance.now() - started).toBeGreaterThanOrEqual(80);
});

it('loses the next answer that has the text, with its connection, and only that one', async () => {
  const { socket, heard } = await open();
  const other = await open();
  proxy.loseNextAnswer('COMMIT');
  socket.write('BEGIN ');
  await waitFor(() => expect(heard()).toBe('BEGIN '));
  socket.write('COMMIT');
  await once(socket, 'close');
  expect(heard()).toBe('BEGIN ');
  other.socket.write('COMMIT');
  await waitFor(() => expect(other.heard()).toBe('COMMIT'));
});

it('an interruption breaks what is open and welcomes what is new', async () => {
  const { socket } = await open();
  const broken = once(socket, 'close');
  proxy.interrupt();
  await broken;
  const again = await open();
  again.socket.write('hello');
  await waitFor(() => expect(again.heard()).toBe('hello'));
});

it('when one end hangs up, so does the other', async () => {
  const { socket } = await open();
  await waitFor(() => expect(accepted).toHaveLength(1));
  const broken = once(socket, 'close');
  accepted[0]?.destroy();
  await broken;
});
