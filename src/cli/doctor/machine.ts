/** Facts about this machine and build. */
import { existsSync } from 'node:fs';
import os from 'node:os';
import { addonCandidates, locateOrtLibrary } from '../../native/locate.ts';
import { probeNative } from '../../native/session.ts';
import { VERSION } from '../../version.ts';

export interface MachineFacts {
  version: string;
  node: string;
  platform: string;
  cpu: { model: string; cores: number };
  memoryBytes: number;
  /** null when the addon is not built. */
  addon: string | null;
  ort: { version: string; library: string } | null;
  /** Kernel paths this processor can run, weakest first. */
  isas: string[];
  cpuFeatures: string[];
}

/** @throws nothing: what fails is reported by the checks. */
export function machineFacts(): MachineFacts {
  const facts: MachineFacts = {
    version: VERSION,
    node: process.version,
    platform: `${os.platform()} ${os.arch()} ${os.release()}`,
    cpu: { model: os.cpus()[0]?.model ?? 'unknown', cores: os.availableParallelism() },
    memoryBytes: os.totalmem(),
    addon: addonCandidates().find((candidate) => existsSync(candidate)) ?? null,
    ort: null,
    isas: [],
    cpuFeatures: [],
  };
  try {
    const library = locateOrtLibrary();
    const probe = probeNative(library);
    facts.ort = { version: probe.ortVersion, library };
    facts.isas = probe.isas;
    facts.cpuFeatures = probe.cpuFeatures;
  } catch {
    // The check "native" says why.
  }
  return facts;
}
