import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../../src/config/load.ts';
import { configurationReference } from '../../../src/config/reference.ts';
import {
  cacheDtype,
  kvBlockBytes,
  planKvCache,
  slotDtype,
  splitAdapter,
} from '../../../src/config/relations.ts';
import { CONFIG_FIELDS } from '../../../src/config/schema.ts';

const load = (flags: Record<string, string | string[]> = {}, env: Record<string, string> = {}) =>
  loadConfig({ flags: { model: '/models/base', ...flags }, env });

const SHAPE = { numLayers: 2, numKvHeads: 2, headSize: 16, maxPositionEmbeddings: 4096 };

describe('configuration', () => {
  it('has a default that satisfies the schema for everything but the model', () => {
    const config = load();
    expect(config).toMatchObject({ host: '127.0.0.1', port: 8000, kvDtype: 'auto', adapter: [] });
    expect(config.isa).toBeUndefined();
  });

  it('takes flags over environment over defaults', () => {
    const env = { LORAMUX_PORT: '9000', LORAMUX_MAX_LORAS: '4', LORAMUX_PREFIX_CACHING: 'false' };
    const config = load({ port: '9001' }, env);
    expect([config.port, config.maxLoras, config.prefixCaching]).toEqual([9001, 4, false]);
  });

  it('keeps adapters as bfloat16 beside packed weights, or as the flag says', () => {
    const { loraDtype } = load();
    expect(slotDtype(loraDtype, { packedWeights: true })).toBe('bfloat16');
    expect(slotDtype(loraDtype, { packedWeights: false })).toBe('float32');
    for (const forced of ['float32', 'bfloat16', 'int8'] as const) {
      const { loraDtype } = load({}, { LORAMUX_LORA_DTYPE: forced });
      for (const packedWeights of [true, false]) {
        expect(slotDtype(loraDtype, { packedWeights })).toBe(forced);
      }
    }
  });

  it('chooses Redis by its flag or its variable', () => {
    const url = 'rediss://user:secret@redis.example:6380/2';
    expect(load({ redisUrl: url }).redisUrl).toBe(url);
    expect(load({}, { LORAMUX_REDIS_URL: url }).redisUrl).toBe(url);
    expect(CONFIG_FIELDS.find(({ key }) => key === 'redisUrl')?.flag).toBe('--redis');
  });

  it('reads repeated flags and comma-separated variables as lists', () => {
    expect(load({ adapter: ['a=x', 'b=y'] }).adapter).toEqual(['a=x', 'b=y']);
    expect(load({}, { LORAMUX_ADAPTER: 'a=x,b=y' }).adapter).toEqual(['a=x', 'b=y']);
  });

  it.each([
    [{}, { LORAMUX_PROT: '1' }, /LORAMUX_PROT/],
    [{ prot: '1' }, {}, /prot/],
    [{ port: '65536' }, {}, /--port is 65536.*0 to 65535/],
    [{ port: '8e3' }, {}, /--port is "8e3"/],
    [{}, { LORAMUX_MAX_SEQUENCES: '' }, /LORAMUX_MAX_SEQUENCES is ""/],
    [
      { loraDtype: 'f16' },
      {},
      /--lora-dtype is "f16"; it must be one of auto, float32, bfloat16, int8/,
    ],
    [{ kvDtype: 'f16' }, {}, /--kv-dtype is "f16"; it must be one of auto, f32, bf16, int8/],
    [{ prefixCaching: 'yes' }, {}, /true or false/],
    [{ host: '' }, {}, /--host/],
    [{ redisAtStart: 'cached' }, {}, /--redis-at-start.*give --redis/],
    [{ blobStore: 's3://b/p' }, {}, /--blob-store.*give --redis/],
    [{ redisUrl: 'localhost:6379' }, {}, /redis:\/\/ or rediss/],
    [{ redisUrl: 'redis://h', s3Endpoint: 'http://s3' }, {}, /--s3-endpoint/],
    [{ redisUrl: 'redis://h', maxAdapterMb: '600' }, {}, /--redis-blob-mb, 512/],
    [{ replicaTtlMs: '1000' }, {}, /less than twice --registry-reconcile-ms/],
    [{ redisSchemaVersion: '2' }, {}, /--redis-schema-version is 2/],
    [{ adapter: ['nameonly'] }, {}, /NAME=FOLDER/],
    [{ maxTokensPerStep: '8' }, {}, /--max-sequences/],
    [{ maxLogitRowsPerStep: '8' }, {}, /--max-sequences/],
    [{ kvCacheMb: '8', numBlocks: '8' }, {}, /one of them/],
    [{ maxAdapterMb: '2000' }, {}, /--adapter-memory-mb/],
    [{ headersTimeoutMs: '400000' }, {}, /--request-timeout-ms/],
  ] as const)('refuses %j %j', (flags, env, message) => {
    const call = () => load(flags as Record<string, string>, env as Record<string, string>);
    expect(call).toThrow(message);
    expect(call).toThrow(expect.objectContaining({ code: 'config_invalid' }));
  });

  it('lets the variables of the tests pass, since tests start servers', () => {
    for (const name of ['LORAMUX_FUZZ_SEED', 'LORAMUX_FUZZ_RUNS', 'LORAMUX_FUZZ_CASES']) {
      expect(load({}, { [name]: '1' }).port, name).toBe(8000);
    }
  });

  it('says that the model is required', () => {
    expect(() => loadConfig({ flags: {}, env: {} })).toThrow(/--model \(or LORAMUX_MODEL\)/);
  });

  it('names flags and variables after the keys, each once', () => {
    const field = CONFIG_FIELDS.find(({ key }) => key === 'maxTokensPerStep');
    expect(field).toMatchObject({
      flag: '--max-tokens-per-step',
      env: 'LORAMUX_MAX_TOKENS_PER_STEP',
    });
    expect(new Set(CONFIG_FIELDS.map(({ flag }) => flag)).size).toBe(CONFIG_FIELDS.length);
  });

  it('is described by docs/configuration.md', async () => {
    await expect(configurationReference()).toMatchFileSnapshot('../../../docs/configuration.md');
  });
});

describe('KV cache plan', () => {
  it('counts keys and values of 16 tokens in all layers', () => {
    expect(kvBlockBytes(SHAPE, 'f32')).toBe(2 * 2 * 2 * 16 * 16 * 4);
    expect(kvBlockBytes(SHAPE, 'bf16')).toBe(kvBlockBytes(SHAPE, 'f32') / 2);
    expect(kvBlockBytes(SHAPE, 'int8')).toBe(2 * 2 * 2 * 16 * (16 + 4));
  });

  it('fits the context into the cache unless told otherwise', () => {
    expect(planKvCache(load({ numBlocks: '10' }), SHAPE, 'f32')).toEqual({
      numBlocks: 10,
      maxModelLen: 160,
    });
    expect(planKvCache(load({ kvCacheMb: '1' }), SHAPE, 'f32').numBlocks).toBe(128);
    expect(planKvCache(load(), SHAPE, 'f32').maxModelLen).toBe(4096);
  });

  it('keeps the cache at about the precision of the weights unless told', () => {
    const [packed, plain] = [{ packedWeights: true }, { packedWeights: false }];
    expect([cacheDtype('auto', packed), cacheDtype('auto', plain)]).toEqual(['bf16', 'f32']);
    expect(cacheDtype('int8', plain)).toBe('int8');
  });

  it('stretches the context of a model with dynamic rope scaling', () => {
    const shape = { ...SHAPE, rope: { dynamic: { factor: 1.5 } } };
    expect(planKvCache(load(), shape, 'f32').maxModelLen).toBe(6144);
  });

  it.each([
    [{ maxModelLen: '161', numBlocks: '10' }, SHAPE, /160 tokens; raise --kv-cache-mb/],
    [{ maxModelLen: '5000' }, SHAPE, /4096 positions/],
    [{ kvCacheMb: '1' }, { ...SHAPE, numLayers: 1000 }, /one block/],
  ] as const)('refuses %j', (flags, shape, message) => {
    expect(() => planKvCache(load(flags), shape, 'f32')).toThrow(message);
  });
});

describe('splitAdapter', () => {
  it('splits at the first equals sign', () => {
    expect(splitAdapter('a=/x=y')).toEqual({ name: 'a', folder: '/x=y' });
  });
});
