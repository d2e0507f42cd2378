import type { GoliothStores } from './golioth/app.ts';
import type { GoogleStores } from './google/stores.ts';

/** What the simulator process has from the start: a demonstration can sync it at once. */
export const SAMPLE_ACCOUNT = { name: 'accounts/100', refreshToken: 'sample-refresh-token' };
export const SAMPLE_PROJECT = { id: 'greenhouse', apiKey: 'sample-api-key' };

export function addSampleAccount({ directory }: GoogleStores): void {
  const review = (reviewId: string, starRating: 'FOUR' | 'FIVE', comment: string) => ({
    reviewId,
    starRating,
    comment,
  });
  directory.addAccount({
    ...SAMPLE_ACCOUNT,
    accountName: "Maya's Climbing Hall",
    locations: [
      {
        name: 'locations/101',
        title: 'Climbing Hall North',
        reviews: [review('r1', 'FIVE', 'Great routes.'), review('r2', 'FOUR', 'Crowded on Fridays.')],
      },
      { name: 'locations/102', title: 'Climbing Hall South', reviews: [review('r3', 'FIVE', 'Friendly people.')] },
    ],
  });
}

export function addSampleProject({ projects }: GoliothStores): void {
  projects.add(SAMPLE_PROJECT);
  for (const name of ['north', 'south', 'roof']) {
    projects.set(SAMPLE_PROJECT.id, { id: `sensor-${name}`, name: `Sensor ${name}`, hardwareIds: [`hw-${name}`] });
  }
}
