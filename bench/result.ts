/** The JSON line that every scenario ends with under `--json`. docs/benchmarks.md describes it. */
import { type Static, Type } from 'typebox';

const Nullable = Type.Union([Type.Number(), Type.Null()]);

/** What the machine did at most while the scenario ran, and how much of it was used. */
export const MachineSchema = Type.Object({
  /** The instruction set the kernels chose, or were told to. */
  isa: Type.String(),
  threads: Type.Integer({ minimum: 1 }),
  /** Reading memory, all threads together, 10^9 bytes per second. */
  readGBs: Type.Number({ exclusiveMinimum: 0 }),
  /** 10^12 operations per second of the best int8 instructions; null: this processor has none. */
  int8Tops: Nullable,
  /** 10^12 operations per second of the best bf16 instructions; null: this processor has none. */
  bf16Tflops: Nullable,
  /** Every ceiling that was measured: 10^9 bytes or 10^12 operations per second. */
  ceilings: Type.Record(Type.String(), Type.Number()),
});
export type Machine = Static<typeof MachineSchema>;

/** One figure of one contender. Scenarios add figures of their own, see docs/benchmarks.md. */
export const MeasurementSchema = Type.Object(
  {
    name: Type.String(),
    tokensPerSecond: Type.Optional(Type.Number()),
    /** Of the ceiling that bounds this work: bandwidth for decode, arithmetic for prefill. */
    fractionOfCeiling: Type.Optional(Nullable),
    /** Half the distance between the quartiles of the rounds, over their median. */
    spread: Type.Optional(Type.Number()),
    rounds: Type.Optional(Type.Integer()),
  },
  { additionalProperties: true },
);
export type Measurement = Static<typeof MeasurementSchema> & { readonly [figure: string]: unknown };

export const ResultSchema = Type.Object({
  scenario: Type.String(),
  machine: MachineSchema,
  results: Type.Array(MeasurementSchema),
  ratios: Type.Record(Type.String(), Type.Number()),
});
export type Result = Static<typeof ResultSchema>;
