import { RequestRate } from './request-rate.ts';

let now: number;
let rate: RequestRate;
beforeEach(() => {
  now = 0;
  rate = new RequestRate(() => now);
});

const addAt = (...times: number[]) => {
  for (now of times) rate.add();
};

test('the window slides: a burst across the turn of a minute counts as one', () => {
  addAt(59_000, 59_500, 60_500, 61_000);
  expect(rate.perMinute).toBe(4);
});

test('a request leaves the window after exactly 60 s; the highest stays', () => {
  addAt(0, 0, 1);
  now = 59_999;
  expect(rate.perMinute).toBe(3);
  now = 60_000;
  expect(rate.perMinute).toBe(1);
  addAt(60_001);
  expect([rate.perMinute, rate.highestPerMinute]).toEqual([1, 3]);
});

test('counts the same over many windows', () => {
  addAt(...Array.from({ length: 10_000 }, (_, index) => index * 100));
  expect([rate.perMinute, rate.highestPerMinute]).toEqual([600, 600]);
});

test('cleared, it saw nothing', () => {
  addAt(0, 1);
  rate.clear();
  expect([rate.perMinute, rate.highestPerMinute]).toEqual([0, 0]);
});
