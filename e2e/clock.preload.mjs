// Loaded into a service before its own code (NODE_OPTIONS=--import). Its time of day is ahead of the machine's by so many
// milliseconds as the file CLOCK_OFFSET_FILE says, looked up a few times a second. Timers are not touched.
import { readFileSync } from 'node:fs';

const LOOK_EVERY_MS = 50;

const RealDate = Date;
let offsetMs = read();
setInterval(() => (offsetMs = read()), LOOK_EVERY_MS).unref();

function read() {
  return Number(readFileSync(process.env.CLOCK_OFFSET_FILE, 'utf8'));
}

globalThis.Date = class extends RealDate {
  constructor(...values) {
    if (values.length === 0) super(RealDate.now() + offsetMs);
    else super(...values);
  }

  static now() {
    return RealDate.now() + offsetMs;
  }
};
