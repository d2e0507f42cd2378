/** As the Management API shows it. */
export type Device = Record<string, unknown> & { id: string };

export interface Project {
  id: string;
  apiKey: string;
  /** By id, in the order they were added, which is the order they are listed in. */
  devices: Map<string, Device>;
}

/** Projects with their devices, in memory. */
export class Projects {
  readonly #now: () => number;
  readonly #projects = new Map<string, Project>();

  constructor(now: () => number) {
    this.#now = now;
  }

  add({ id, apiKey }: { id: string; apiKey: string }): void {
    this.#projects.set(id, { id, apiKey, devices: new Map() });
  }

  /** Adds the device, or replaces the one of that id. Throws when there is no such project. */
  set(projectId: string, device: Device): void {
    const at = new Date(this.#now()).toISOString();
    const known = { hardwareIds: [], tagIds: [], enabled: true, createdAt: at, updatedAt: at };
    this.#get(projectId).devices.set(device.id, { ...known, ...device });
  }

  remove(projectId: string, deviceId: string): void {
    this.#get(projectId).devices.delete(deviceId);
  }

  opened(apiKey: string): Project | undefined {
    return this.all().find((project) => project.apiKey === apiKey);
  }

  all(): Project[] {
    return [...this.#projects.values()];
  }

  clear(): void {
    this.#projects.clear();
  }

  #get(id: string): Project {
    const project = this.#projects.get(id);
    if (!project) throw new RangeError(`There is no project ${id}`);
    return project;
  }
}
