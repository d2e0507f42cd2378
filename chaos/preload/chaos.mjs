// Loaded into every service before its own code (node --import). It does nothing until the harness says so over the
// channel between the two: kill this process at a step, or let its clock be wrong.
import { channel } from 'node:diagnostics_channel';

let armed;
let skewMs = 0;

channel('outbox.step').subscribe((step) => {
  if (step === armed) process.kill(process.pid, 'SIGKILL');
});

process.on('message', (message) => {
  if ('killAt' in message) armed = message.killAt ?? undefined;
  if ('skewMs' in message) skewMs = message.skewMs;
});

const RealDate = Date;

class SkewedDate extends RealDate {
  constructor(...values) {
    if (values.length === 0) super(RealDate.now() + skewMs);
    else super(...values);
  }

  static now() {
    return RealDate.now() + skewMs;
  }
}

globalThis.Date = SkewedDate;
