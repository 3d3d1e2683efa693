/** What is unsafe about the way a Redis is configured, as far as it may be asked. */
import type { Redis } from 'ioredis';

/** Sentences for the status; empty when nothing is wrong or nothing may be asked. */
export async function redisWarnings(redis: Redis): Promise<string[]> {
  const [memory, persistence, save] = await Promise.all([
    ask(() => redis.info('memory')),
    ask(() => redis.info('persistence')),
    ask(async () => (await redis.config('GET', 'save')) as unknown),
  ]);
  const warnings: string[] = [];
  const policy = field(memory, 'maxmemory_policy');
  const limit = field(memory, 'maxmemory');
  if (policy !== undefined && policy !== 'noeviction' && limit !== '0') {
    warnings.push(
      `Redis may evict adapters when its memory is full (maxmemory-policy ${policy}); set noeviction`,
    );
  }
  if (field(persistence, 'aof_enabled') === '0') {
    const snapshots = Array.isArray(save) ? save[1] !== '' : undefined;
    warnings.push(
      snapshots === false
        ? 'Redis keeps nothing on disk: a restart loses every adapter; set appendonly yes'
        : 'Redis keeps no append-only file: a crash loses the last changes; set appendonly yes',
    );
  }
  if (field(persistence, 'aof_last_write_status') === 'err') {
    warnings.push('Redis cannot write its append-only file');
  }
  return warnings;
}

/** Access rules may forbid asking; that is no fault. */
async function ask<Answer>(question: () => Promise<Answer>): Promise<Answer | undefined> {
  try {
    return await question();
  } catch {
    return undefined;
  }
}

function field(info: string | undefined, name: string): string | undefined {
  return info === undefined ? undefined : new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1];
}
