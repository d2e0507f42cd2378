export { started } from '../dist/starts.js';

/** Tells the parent how many jobs are done, at most every 10 ms. */
let done = 0;
let told = 0;

export function countDone() {
  done += 1;
}

export function ready() {
  process.send({ ready: true });
  setInterval(() => {
    if (done === told) return;
    told = done;
    process.send({ done });
  }, 10);
}
