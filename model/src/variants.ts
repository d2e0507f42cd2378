/**
 * Simpler designs that do not hold. Each is one switch in the model, written beside the rule it breaks
 * (`world.broken('…')`), and model.test.ts demands that random schedules catch it.
 */
export const VARIANTS = [
  'claim only published',
  'complete a redelivered job whose row is still active',
  'duplicate enqueue as a plain no-op',
  'uniqueness by state',
  're-add the same id after a rebuild',
  'epoch compared only at rebuild time',
  'rescue by age without a fence',
  'fence by attempt number',
  'cancel without re-check',
  "the job's own write cancels it",
  'cursor (id > last) publishing',
  'resend when the look-up says not found (before the settle time)',
] as const;

export type Variant = (typeof VARIANTS)[number];
