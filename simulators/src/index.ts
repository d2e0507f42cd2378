export { createTwilioApp, type SentMessage, type TwilioAppOptions } from './twilio/app.ts';
export type { Fault, FaultInput } from './twilio/faults.ts';
export { startTwilioSimulator, type TwilioSimulator, type TwilioSimulatorOptions } from './twilio/simulator.ts';
export type { LoggedRequest } from './twilio/stores.ts';
