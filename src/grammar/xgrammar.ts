/**
 * Loads the library. Its package is a UMD script that calls itself a module: it wants CommonJS names
 * and leaves its exports in a global. So this is done in a thread of its own only.
 */
import { createRequire } from 'node:module';
import path from 'node:path';
import type * as XGrammar from '@mlc-ai/web-xgrammar';
import { THREAD_MEMORY_MAX } from './limits.ts';

const PACKAGE = '@mlc-ai/web-xgrammar';

/** Lines the library wrote last; where it gives up it says why there. */
const lastLines: string[] = [];
const LINES_MAX = 4;

function keep(...parts: readonly unknown[]): void {
  lastLines.push(parts.map(String).join(' '));
  if (lastLines.length > LINES_MAX) lastLines.shift();
}

/** Why the library gave up, from its own words. */
export function reasonOf(error: unknown): string {
  const fatal = lastLines.findLast((line) => line.includes('[FATAL]'));
  if (fatal !== undefined) return fatal.replace(/^.*?\.cc:\d+: /, '');
  return error instanceof Error ? error.message : String(error);
}

/** Of the global WebAssembly, which the project's types leave out. */
interface MemoryClass {
  prototype: { readonly buffer: ArrayBuffer; grow(pages: number): number };
}

/** The library refuses what would make it grow without end. */
function limitMemory(): void {
  const { WebAssembly } = globalThis as unknown as { WebAssembly: { Memory: MemoryClass } };
  const { grow } = WebAssembly.Memory.prototype;
  WebAssembly.Memory.prototype.grow = function limited(pages: number): number {
    if (this.buffer.byteLength + pages * 65_536 > THREAD_MEMORY_MAX) {
      throw new RangeError('a grammar takes too much memory');
    }
    return grow.call(this, pages);
  };
}

/** To be called once in a thread. */
export async function loadXGrammar(): Promise<typeof XGrammar> {
  console.log = keep;
  console.warn = keep;
  console.error = keep;
  limitMemory();
  const require = createRequire(import.meta.url);
  const file = require.resolve(PACKAGE);
  const globals = globalThis as Record<string, unknown>;
  globals.require = require;
  globals.__filename = file;
  globals.__dirname = path.dirname(file);
  await import(PACKAGE);
  return globals.xgrammar as typeof XGrammar;
}
