/**
 * A number with its country code (+44 20 7946 0958), one in groups ((555) 010-1234), or ten to fifteen digits in a row.
 * Not what is part of a longer word, so that uuids and provider references stay readable.
 */
const PHONE =
  /(?<![\w+])\+\d(?:[\s().-]{0,2}\d){6,14}(?!\w)|(?<![\w-])(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])|(?<![\w.-])\d{10,15}(?![\w-])/g;

/** Replaces phone numbers by their last two digits: enough to tell two apart, too little to call. */
export function maskPhones(text: string): string;
export function maskPhones(text: string | null): string | null;
export function maskPhones(text: string | null): string | null {
  return text === null ? null : text.replace(PHONE, (phone) => `[phone …${phone.slice(-2)}]`);
}

/** The same in every text of a JSON value. */
export function maskPhonesIn(value: unknown): unknown {
  if (typeof value === 'string') return maskPhones(value);
  if (Array.isArray(value)) return value.map(maskPhonesIn);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, maskPhonesIn(item)]));
}
