/**
 * Reads a config.json key by key. A key that nobody asked for is refused at the end, so a new field
 * that changes the result can never be dropped in silence.
 */
import { LoramuxError } from '../errors.ts';
import type { JsonObject, JsonValue } from './json.ts';

export interface NumberRule {
  /** Value when the key is absent or null; without it the key is required. */
  fallback?: number;
  min?: number;
  max?: number;
}

export class ConfigReader {
  readonly #json: JsonObject;
  readonly #label: string;
  readonly #unread: Set<string>;

  /** @param label names the object in messages, e.g. `config.json` or `rope_parameters`. */
  constructor(json: JsonObject, label: string) {
    this.#json = json;
    this.#label = label;
    this.#unread = new Set(Object.keys(json));
  }

  /** Present and not null. */
  has(key: string): boolean {
    return Object.hasOwn(this.#json, key) && this.#json[key] !== null;
  }

  /** The raw value, undefined when absent; counts as read. */
  raw(key: string): JsonValue | undefined {
    this.#unread.delete(key);
    return Object.hasOwn(this.#json, key) ? this.#json[key] : undefined;
  }

  integer(key: string, rule: NumberRule = {}): number {
    const value = this.number(key, rule);
    if (!Number.isSafeInteger(value)) throw this.unsupported(key, 'must be an integer');
    return value;
  }

  number(key: string, rule: NumberRule = {}): number {
    const value = this.raw(key) ?? rule.fallback;
    if (value === undefined) throw this.unsupported(key, 'is required');
    if (typeof value !== 'number' || !Number.isFinite(value)) {
      throw this.unsupported(key, 'must be a number');
    }
    if (rule.min !== undefined && value < rule.min) {
      throw this.unsupported(key, `must be at least ${rule.min}`);
    }
    if (rule.max !== undefined && value > rule.max) {
      throw this.unsupported(key, `must be at most ${rule.max}`);
    }
    return value;
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.raw(key) ?? fallback;
    if (typeof value !== 'boolean') throw this.unsupported(key, 'must be true or false');
    return value;
  }

  string(key: string, fallback?: string): string {
    const value = this.raw(key) ?? fallback;
    if (typeof value !== 'string') throw this.unsupported(key, 'must be a string');
    return value;
  }

  /** Absent, null or one of `allowed`: other values would change the result. */
  mustBe(key: string, allowed: readonly (string | number | boolean)[], why: string): void {
    const value = this.raw(key);
    if (value === undefined || value === null) return;
    if (!allowed.includes(value as string | number | boolean)) {
      throw this.unsupported(
        key,
        `only ${allowed.map((a) => JSON.stringify(a)).join(', ')}: ${why}`,
      );
    }
  }

  /** Absent, null, or an empty list or object. */
  mustBeEmpty(key: string, why: string): void {
    const value = this.raw(key);
    if (value === undefined || value === null) return;
    if (typeof value !== 'object' || Object.keys(value).length > 0) {
      throw this.unsupported(key, `must be empty: ${why}`);
    }
  }

  /** Keys that have no effect on inference. */
  ignore(keys: Iterable<string>): void {
    for (const key of keys) this.#unread.delete(key);
  }

  /** @throws LoramuxError model_config_unsupported when keys are left that nobody read. */
  finish(): void {
    if (this.#unread.size === 0) return;
    const keys = [...this.#unread].map((key) => JSON.stringify(key)).join(', ');
    throw new LoramuxError(
      'model_config_unsupported',
      `${this.#label} has unknown keys ${keys}. They may change the model's output, so it is not ` +
        'loaded; remove them if they have no effect on inference.',
    );
  }

  unsupported(key: string, what: string): LoramuxError {
    const value = JSON.stringify(this.#json[key]) ?? 'absent';
    const shown = value.length > 200 ? `${value.slice(0, 200)}...` : value;
    return new LoramuxError(
      'model_config_unsupported',
      `${this.#label}: ${JSON.stringify(key)} is ${shown}; ${what}.`,
    );
  }
}
