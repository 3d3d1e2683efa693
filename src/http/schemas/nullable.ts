/** Optional fields that clients may also send as null, meaning the default. */
import { type TSchema, Type } from 'typebox';

interface NumberRange {
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
}

const field = <T>(type: string, options: object) =>
  Type.Optional(Type.Unsafe<T | null>({ type: [type, 'null'], ...options } as TSchema));

export const nullableInteger = (description: string, range: NumberRange, value?: number) =>
  field<number>('integer', {
    description,
    ...range,
    ...(value !== undefined && { default: value }),
  });

export const nullableNumber = (description: string, range: NumberRange, value?: number) =>
  field<number>('number', {
    description,
    ...range,
    ...(value !== undefined && { default: value }),
  });

export const nullableBoolean = (description: string, value: boolean) =>
  field<boolean>('boolean', { description, default: value });

export const nullableString = (
  description: string,
  lengths: { minLength?: number; maxLength: number },
) => field<string>('string', { description, ...lengths });
