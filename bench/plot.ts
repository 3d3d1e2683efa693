/** Charts as SVG text, without a dependency. */
import type { Measurement } from './result.ts';

const WIDTH = 720;
const ROW = 26;
const LABELS = 230;
const MARGIN = 16;
const TITLE = 34;
const COLOURS = ['#3465a4', '#cc6600', '#4e9a06', '#75507b', '#a40000', '#555753'];

export interface Bar {
  readonly label: string;
  readonly value: number;
  /** Drawn as a line across the bar. */
  readonly target?: number;
}

export interface Line {
  readonly label: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

const escapeText = (text: string) => text.replace(/[&<>"]/g, (c) => `&#${c.codePointAt(0)};`);

/** Three significant digits, without an exponent where that is short. */
export function digits(value: number): string {
  return value !== 0 && Math.abs(value) < 1e-3
    ? value.toExponential(2)
    : String(+value.toPrecision(3));
}

function svg(height: number, title: string, body: readonly string[]): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" ` +
      `viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${height}" fill="white"/>`,
    `<text x="${MARGIN}" y="22" font-size="14" font-weight="bold">${escapeText(title)}</text>`,
    ...body,
    '</svg>',
    '',
  ].join('\n');
}

/** Horizontal bars from 0, one below the other. */
export function barChart(title: string, bars: readonly Bar[]): string {
  const top = Math.max(...bars.flatMap(({ value, target }) => [value, target ?? 0]), 1e-12);
  const scale = (WIDTH - LABELS - MARGIN - 70) / top;
  const body = bars.flatMap(({ label, value, target }, i) => {
    const y = TITLE + i * ROW;
    const width = Math.max(0, value * scale);
    const drawn = [
      `<text x="${LABELS - 8}" y="${y + 16}" text-anchor="end">${escapeText(label)}</text>`,
      `<rect x="${LABELS}" y="${y + 4}" width="${width.toFixed(1)}" height="${ROW - 8}" ` +
        `fill="${COLOURS[0]}"/>`,
      `<text x="${(LABELS + width + 6).toFixed(1)}" y="${y + 16}">${digits(value)}</text>`,
    ];
    if (target !== undefined) {
      const x = (LABELS + target * scale).toFixed(1);
      drawn.push(
        `<line x1="${x}" y1="${y + 1}" x2="${x}" y2="${y + ROW - 1}" stroke="${COLOURS[4]}" ` +
          'stroke-width="2"/>',
      );
    }
    return drawn;
  });
  return svg(TITLE + bars.length * ROW + MARGIN, title, body);
}

/** Bars of the tokens per second of each result. */
export function tokensChart(title: string, results: readonly Measurement[]): string {
  const bars = results.map(({ name, tokensPerSecond }) => ({
    label: name,
    value: tokensPerSecond!,
  }));
  return barChart(`${title}, tokens per second`, bars);
}

/** Lines over a common pair of axes that begin at 0. */
export function lineChart(
  title: string,
  axes: { readonly x: string; readonly y: string },
  lines: readonly Line[],
): string {
  const height = 380;
  const [left, right, bottom] = [60, WIDTH - 170, height - 46];
  const all = lines.flatMap(({ points }) => points);
  const maxX = Math.max(...all.map(([x]) => x), 1e-12);
  const maxY = Math.max(...all.map(([, y]) => y), 1e-12);
  const at = ([x, y]: readonly [number, number]) =>
    `${(left + (x / maxX) * (right - left)).toFixed(1)},` +
    `${(bottom - (y / maxY) * (bottom - TITLE)).toFixed(1)}`;
  const body = [
    `<polyline points="${left},${TITLE} ${left},${bottom} ${right},${bottom}" fill="none" ` +
      'stroke="black"/>',
    `<text x="${(left + right) / 2}" y="${height - 10}" text-anchor="middle">${escapeText(axes.x)}</text>`,
    `<text x="${left}" y="${TITLE - 2}">${escapeText(axes.y)}</text>`,
    `<text x="${right}" y="${bottom + 16}" text-anchor="end">${digits(maxX)}</text>`,
    `<text x="${left - 6}" y="${TITLE + 10}" text-anchor="end">${digits(maxY)}</text>`,
    `<text x="${left - 6}" y="${bottom}" text-anchor="end">0</text>`,
  ];
  lines.forEach(({ label, points }, i) => {
    const colour = COLOURS[i % COLOURS.length]!;
    body.push(
      `<polyline points="${points.map(at).join(' ')}" fill="none" stroke="${colour}" ` +
        'stroke-width="2"/>',
      `<text x="${right + 12}" y="${TITLE + 14 + i * 18}" fill="${colour}">${escapeText(label)}</text>`,
    );
  });
  return svg(height, title, body);
}
