/** The value in the middle; of an even count, the upper of the two. NaN of none. */
export function median(values: readonly number[]): number {
  return percentile(values, 50);
}

/** The least value that `percent` of 100 values are below: 99 of 1,000 values is the tenth from above. NaN of none. */
export function percentile(values: readonly number[], percent: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor((values.length * percent) / 100))] ?? Number.NaN;
}

/** `min / median / max`, as the tables show them. */
export function spread(values: readonly number[], digits = 2): string {
  return [Math.min(...values), median(values), Math.max(...values)].map((value) => value.toFixed(digits)).join(' / ');
}
