import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

export interface FaultProxy {
  /** The target's URL with the proxy's address in place of the target's. It stays the same. */
  readonly url: string;
  /** Breaks every connection and refuses new ones, until `restore`. */
  cut(): Promise<void>;
  /** Breaks every connection; new ones are welcome. */
  interrupt(): void;
  /**
   * Half-open, until `restore`: connections stay and new ones are accepted, but nothing gets through, not even that an end
   * has hung up. What was held back arrives late, as after a network that lost packets for a while.
   */
  silence(): void;
  /** The same for the connections that are open now; new ones work. */
  silenceOpen(): void;
  /** Whatever arrives is passed on after `ms` milliseconds, in order, until `restore`. */
  delay(ms: number): void;
  /** The server's next answer that contains `text` gets lost, and its connection with it. */
  loseNextAnswer(text: string): void;
  /** Ends cut, silence and delay. */
  restore(): Promise<void>;
  /** Breaks every connection for good. Closing twice is harmless. */
  close(): Promise<void>;
}

/** A direction may hold so much back before its sender has to wait. */
const MOST_HELD_BYTES = 1024 * 1024;

/** What all connections of a proxy obey. */
class Weather {
  silent = false;
  delayMs = 0;
  lostAnswer: string | undefined;
}

/** Stands before a TCP server, at a port of its own on 127.0.0.1, and misbehaves as networks do when told to. */
export async function startFaultProxy(target: string): Promise<FaultProxy> {
  const { port: targetPort, hostname } = new URL(target);
  const weather = new Weather();
  const connections = new Set<Connection>();
  const server = createServer((client) => {
    const connection = new Connection(client, connect(Number(targetPort), hostname), weather);
    connections.add(connection);
    connection.onEnd = () => connections.delete(connection);
  });
  const listen = async (port: number) => {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    return (server.address() as AddressInfo).port;
  };
  const interrupt = () => connections.forEach((connection) => connection.end());
  const cut = async () => {
    const closed = new Promise((resolve) => server.close(resolve));
    interrupt();
    await closed;
  };
  const port = await listen(0);
  const url = new URL(target);
  url.host = `127.0.0.1:${port}`;
  return {
    url: url.toString(),
    cut,
    interrupt,
    silence: () => void (weather.silent = true),
    silenceOpen: () => connections.forEach((connection) => connection.silence()),
    delay: (ms) => void (weather.delayMs = ms),
    loseNextAnswer: (text) => void (weather.lostAnswer = text),
    restore: async () => {
      weather.silent = false;
      weather.delayMs = 0;
      if (!server.listening) await listen(port);
      connections.forEach((connection) => connection.resume());
    },
    close: async () => {
      if (server.listening) await cut();
      else interrupt();
    },
  };
}

/** A client, the server behind, and the two directions between them. */
class Connection {
  onEnd: () => void = () => undefined;
  readonly #ends: [client: Socket, upstream: Socket];
  readonly #directions: Direction[];

  constructor(client: Socket, upstream: Socket, weather: Weather) {
    this.#ends = [client, upstream];
    const losesAnswer = (data: Buffer) => {
      if (weather.lostAnswer === undefined || !data.includes(weather.lostAnswer)) return false;
      weather.lostAnswer = undefined;
      return true;
    };
    this.#directions = [
      new Direction(client, upstream, weather, () => false),
      new Direction(upstream, client, weather, losesAnswer),
    ];
    for (const direction of this.#directions) direction.onEnd = () => this.end();
  }

  end(): void {
    for (const socket of this.#ends) socket.destroy();
    this.onEnd();
  }

  silence(): void {
    for (const direction of this.#directions) direction.silent = true;
  }

  resume(): void {
    for (const direction of this.#directions) {
      direction.silent = false;
      direction.pass();
    }
  }
}

/** Passes on what one end says, as the weather allows, and in the end that it has hung up. */
class Direction {
  onEnd: () => void = () => undefined;
  /** Whatever the weather of the others. */
  silent = false;
  readonly #from: Socket;
  readonly #to: Socket;
  readonly #weather: Weather;
  readonly #isLost: (data: Buffer) => boolean;
  readonly #held: { data: Buffer; at: number }[] = [];
  #heldBytes = 0;
  #hungUp = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(from: Socket, to: Socket, weather: Weather, isLost: (data: Buffer) => boolean) {
    this.#from = from;
    this.#to = to;
    this.#weather = weather;
    this.#isLost = isLost;
    from.on('data', (data) => this.#take(data));
    from.on('error', () => undefined);
    from.on('close', () => {
      this.#hungUp = true;
      this.pass();
    });
    to.on('drain', () => this.pass());
  }

  #take(data: Buffer): void {
    this.#held.push({ data, at: performance.now() });
    this.#heldBytes += data.length;
    if (this.#heldBytes > MOST_HELD_BYTES) this.#from.pause();
    this.pass();
  }

  /** Passes on what may go now, and comes back for the rest. */
  pass(): void {
    clearTimeout(this.#timer);
    const { silent, delayMs } = this.#weather;
    if (silent || this.silent) return;
    for (let next = this.#held[0]; next; next = this.#held[0]) {
      const waitMs = delayMs > 0 ? next.at + delayMs - performance.now() : 0;
      if (waitMs > 0) {
        this.#timer = setTimeout(() => this.pass(), waitMs);
        return;
      }
      if (this.#isLost(next.data)) return this.onEnd();
      if (this.#to.writableNeedDrain) return;
      this.#held.shift();
      this.#heldBytes -= next.data.length;
      if (this.#to.writable) this.#to.write(next.data);
    }
    if (this.#hungUp) this.onEnd();
    else if (this.#from.isPaused()) this.#from.resume();
  }
}
