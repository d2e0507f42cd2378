import { maskPhones, maskPhonesIn } from './mask-phones.ts';

describe('maskPhones', () => {
  it.each([
    ["The 'To' number +15005550001 is not valid", "The 'To' number [phone …01] is not valid"],
    ['+44 20 7946 0958 has opted out', '[phone …58] has opted out'],
    ['to=+1 (555) 010-1234.', 'to=[phone …34].'],
    ['call (555) 010-1234', 'call [phone …34]'],
    ['555-010-1234, 555.010.1235', '[phone …34], [phone …35]'],
    ['15550101234', '[phone …34]'],
    ['"phone":"15550101234"', '"phone":"[phone …34]"'],
  ])('masks %p', (text, expected) => {
    expect(maskPhones(text)).toBe(expected);
  });

  it.each([
    'reminder:7cbb5285-7b37-4ee2-90bb-446655440000:12345678-1234-1234-1234-123456789012:1',
    'SM12345678901234567890123456789012',
    '2030-01-31T09:00:00.000Z',
    '2030-01-31 09:00:00',
    'Twilio answered 400 (error 21211) after 45000 ms',
    'attempt 3 of 3, 1.5 + 2 = 3.5',
    'at 10.0.12.255:5432',
  ])('leaves %p as it is', (text) => {
    expect(maskPhones(text)).toBe(text);
  });

  it('masks every text of a JSON value and leaves its shape', () => {
    const value = { sent: ['+15005550001', 3, null], by: { note: 'to +15005550002' } };
    expect(maskPhonesIn(value)).toEqual({ sent: ['[phone …01]', 3, null], by: { note: 'to [phone …02]' } });
  });
});
