/** Python's `strftime` in the C locale and local time: what templates put dates into prompts with. */

const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const MONTHS = [
  'January',
  'February',
  'March',
  'April',
  'May',
  'June',
  'July',
  'August',
  'September',
  'October',
  'November',
  'December',
];

const DAY_MS = 86_400_000;
const pad = (value: number, width: number, fill = '0') => String(value).padStart(width, fill);

function dayOfYear(date: Date): number {
  const year = date.getFullYear();
  const today = Date.UTC(year, date.getMonth(), date.getDate());
  return Math.round((today - Date.UTC(year, 0, 1)) / DAY_MS) + 1;
}

const DIRECTIVES: Readonly<Record<string, (date: Date) => string>> = {
  Y: (date) => String(date.getFullYear()),
  y: (date) => pad(date.getFullYear() % 100, 2),
  m: (date) => pad(date.getMonth() + 1, 2),
  d: (date) => pad(date.getDate(), 2),
  e: (date) => pad(date.getDate(), 2, ' '),
  H: (date) => pad(date.getHours(), 2),
  I: (date) => pad(date.getHours() % 12 || 12, 2),
  M: (date) => pad(date.getMinutes(), 2),
  S: (date) => pad(date.getSeconds(), 2),
  p: (date) => (date.getHours() < 12 ? 'AM' : 'PM'),
  j: (date) => pad(dayOfYear(date), 3),
  A: (date) => DAYS[date.getDay()]!,
  a: (date) => DAYS[date.getDay()]!.slice(0, 3),
  B: (date) => MONTHS[date.getMonth()]!,
  b: (date) => MONTHS[date.getMonth()]!.slice(0, 3),
  F: (date) => strftime(date, '%Y-%m-%d'),
  T: (date) => strftime(date, '%H:%M:%S'),
  // Without a time zone, as Python's datetime.now() is.
  z: () => '',
  Z: () => '',
  '%': () => '%',
};

/** @throws Error naming a directive that is not among those above (`%-d` leaves padding out) */
export function strftime(date: Date, format: string): string {
  return format.replaceAll(/%(-?)(.?)/gsu, (directive, bare: string, letter: string) => {
    const text = DIRECTIVES[letter]?.(date);
    if (text === undefined) throw new Error(`strftime_now does not know ${directive}`);
    return bare === '' ? text : text.replace(/^[0 ]+(?=.)/, '');
  });
}
