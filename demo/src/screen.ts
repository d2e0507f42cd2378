/** What `npm start` prints: steps with progress while it prepares, then plain lines. */
export interface Screen {
  say: (line?: string) => void;
  /** Runs `work`, showing how long it takes on a terminal, and one line when it is done. */
  step: <T>(title: string, work: () => Promise<T>) => Promise<T>;
}

const REFRESH_MS = 250;
const ERASE_LINE = '\r\x1b[K';

export function createScreen(output: NodeJS.WriteStream): Screen {
  const say = (line = '') => void output.write(`${line}\n`);
  return {
    say,
    step: async (title, work) => {
      const startedAt = Date.now();
      const seconds = () => `${((Date.now() - startedAt) / 1_000).toFixed(1)} s`;
      const ticker = output.isTTY
        ? setInterval(() => output.write(`${ERASE_LINE}  ${title} … ${seconds()}`), REFRESH_MS)
        : undefined;
      try {
        const result = await work();
        if (output.isTTY) output.write(ERASE_LINE);
        say(`  ✓ ${title} (${seconds()})`);
        return result;
      } catch (error) {
        if (output.isTTY) output.write(ERASE_LINE);
        say(`  ✗ ${title}`);
        throw error;
      } finally {
        clearInterval(ticker);
      }
    },
  };
}
