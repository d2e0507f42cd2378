/** Pid → name of the services that a test file has started and that have not ended yet. */
export type StartedServices = Map<number, string>;

declare global {
  // Both are put there by the test environment, for each test file anew.
  var outboxStartedServices: StartedServices | undefined;
  /** Name of the test file, without its folder. */
  var outboxTestFile: string | undefined;
}

/** Kills those that `which` names and returns a description of each. */
export function killServices(services: StartedServices, which: (pid: number) => boolean): string[] {
  const left = [...services].filter(([pid]) => which(pid));
  for (const [pid] of left) {
    services.delete(pid);
    process.kill(pid, 'SIGKILL');
  }
  return left.map(([pid, name]) => `${name} (process ${pid})`);
}
