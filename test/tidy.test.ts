/**
 * Style as a test: sizes, import direction, cycles, dead files, leftovers. What a rule here would
 * make worse is listed beside the rule with its reason.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const LINES_MAX = { '.ts': 500, '.mjs': 500, '.cc': 600, '.h': 600, '.py': 600 };
const COLUMNS_MAX = 100;
/** Written by a script from another file. */
const GENERATED = ['src/client/openapi.ts'];

const tracked = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
  cwd: ROOT,
  encoding: 'utf8',
})
  .split('\n')
  .filter((file) => file !== '' && !file.startsWith('test/fixtures/'));
const sources = tracked.filter((file) => path.extname(file) in LINES_MAX);
const read = (file: string) => readFileSync(path.join(ROOT, file), 'utf8');

/** A request's way, top to bottom. Value imports go downwards only. */
const LAYERS = [
  'cli',
  'http',
  'chat',
  'generation',
  'grammar',
  'tokenizer',
  'adapters',
  'engine',
  'scheduler',
  'kvcache',
  'native',
];
/** Runs in browsers, too: it imports nothing of the server and nothing of Node, and nobody it. */
const APART = 'client';
/** Beside the way: anyone may import these; they import nothing of the way but `native` types. */
const BESIDE = ['importer', 'metrics', 'config', 'jinja', 'threads'];

interface Import {
  readonly from: string;
  readonly to: string;
  readonly typeOnly: boolean;
}

function importsOf(file: string): Import[] {
  const found: Import[] = [];
  const pattern =
    /^\s*(?:import|export)\s+(type\s+)?(?:[^'"();]*?\sfrom\s+)?['"](\.[^'"]+)['"]|new URL\(\s*['"](\.[^'"]+\.ts)['"]|import\(\s*['"](\.[^'"]+)['"]/gm;
  for (const match of read(file).matchAll(pattern)) {
    const target = match[2] ?? match[3] ?? match[4];
    if (target === undefined) continue;
    const to = path.posix.normalize(path.posix.join(path.posix.dirname(file), target));
    found.push({ from: file, to, typeOnly: match[1] !== undefined });
  }
  return found;
}

const srcFiles = sources.filter((file) => file.startsWith('src/') && file.endsWith('.ts'));
const imports = srcFiles.flatMap(importsOf);
const layerOf = (file: string) => /^src\/([^/]+)\//.exec(file)?.[1];

describe('tidy', () => {
  it('keeps files short', () => {
    const long = sources
      .filter((file) => !GENERATED.includes(file))
      .flatMap((file) => {
        const lines = read(file).split('\n').length - 1;
        const limit = LINES_MAX[path.extname(file) as keyof typeof LINES_MAX];
        return lines > limit ? [`${file}: ${lines} lines, at most ${limit}`] : [];
      });
    expect(long).toEqual([]);
  });

  it('keeps lines within the width, but for what cannot be broken', () => {
    const wide = sources.flatMap((file) =>
      read(file)
        .split('\n')
        .flatMap((line, index) =>
          line.length > COLUMNS_MAX && /\s\S*\s\S/.test(line.slice(0, COLUMNS_MAX).trim())
            ? [`${file}:${index + 1}: ${line.length} columns`]
            : [],
        )
        .filter(() => !file.endsWith('.ts') && !file.endsWith('.mjs')),
    );
    // TypeScript is laid out by the formatter, which leaves long strings whole.
    expect(wide).toEqual([]);
  });

  it('imports downwards only', () => {
    const upward = imports.filter(({ from, to, typeOnly }) => {
      if (typeOnly) return false;
      const a = layerOf(from);
      const b = layerOf(to);
      if (a === undefined || b === undefined || a === b) return false;
      // The safetensors reader serves adapters as well as checkpoints.
      if (BESIDE.includes(b)) return false;
      if (BESIDE.includes(a)) return b !== 'native';
      return LAYERS.indexOf(a) > LAYERS.indexOf(b);
    });
    expect(upward.map(({ from, to }) => `${from} -> ${to}`)).toEqual([]);
  });

  it('keeps the client apart from the server, and from Node', () => {
    const crossing = imports.filter(
      ({ from, to }) => (layerOf(from) === APART) !== (layerOf(to) === APART),
    );
    expect(crossing.map(({ from, to }) => `${from} -> ${to}`)).toEqual([]);
    const packages = srcFiles
      .filter((file) => layerOf(file) === APART)
      .flatMap((file) => [...read(file).matchAll(/(?:from|import\(?) ['"]([^.'"][^'"]*)['"]/g)])
      .map(([, name]) => name);
    expect(packages).toEqual([]);
  });

  it('knows every folder of src', () => {
    const unknown = srcFiles
      .map(layerOf)
      .filter((l) => l !== undefined && l !== APART)
      .filter((l) => !LAYERS.includes(l!) && !BESIDE.includes(l!));
    expect([...new Set(unknown)]).toEqual([]);
  });

  it('has no import cycles', () => {
    const edges = new Map<string, string[]>();
    for (const { from, to, typeOnly } of imports) {
      if (!typeOnly) edges.set(from, [...(edges.get(from) ?? []), to]);
    }
    const state = new Map<string, 'open' | 'done'>();
    const cycles: string[] = [];
    const visit = (file: string, trail: readonly string[]) => {
      if (state.get(file) === 'done') return;
      if (state.get(file) === 'open') {
        cycles.push([...trail.slice(trail.indexOf(file)), file].join(' -> '));
        return;
      }
      state.set(file, 'open');
      for (const next of edges.get(file) ?? []) visit(next, [...trail, file]);
      state.set(file, 'done');
    };
    for (const file of edges.keys()) visit(file, []);
    expect(cycles).toEqual([]);
  });

  it('has no dead source files', () => {
    const used = new Set(imports.map(({ to }) => to));
    for (const file of sources) {
      if (!file.startsWith('src/')) for (const { to } of importsOf(file)) used.add(to);
    }
    const entries = ['src/cli/main.ts', 'src/client/index.ts'];
    const dead = srcFiles.filter((file) => !used.has(file) && !entries.includes(file));
    expect(dead).toEqual([]);
  });

  it('leaves nothing behind', () => {
    const mark = new RegExp(['FIX', 'ME|\\bTO', 'DO\\b|\\bX', 'XX\\b'].join(''));
    const only = /\b(?:it|describe|test)\.(?:only|todo)\(/;
    const left = sources.flatMap((file) =>
      read(file)
        .split('\n')
        .flatMap((line, index) =>
          mark.test(line) || only.test(line) ? [`${file}:${index + 1}: ${line.trim()}`] : [],
        ),
    );
    expect(left).toEqual([]);
  });

  it('touches the compiled addon in one folder only', () => {
    const loaders = srcFiles.filter(
      (file) => !file.startsWith('src/native/') && /\.node['"`]/.test(read(file)),
    );
    expect(loaders).toEqual([]);
  });
});
