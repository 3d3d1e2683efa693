/** Tools and answers of a form, as the tests of every client for Node ask for them. */
import { expect } from 'vitest';
import { z } from 'zod';
import { DEMO_NAME } from './demo-server.ts';

/** The base and an adapter, which know nothing of tools or JSON. */
export const MODELS = [DEMO_NAME, 'subtract'];

/** Both, in each API that has tools. */
export const IN_EACH_API = MODELS.flatMap((model) =>
  (['chat', 'responses'] as const).map((api) => [api, model] as const),
);

export const QUESTION = '17 @ 5 =';

/** Arguments of the tools, by name. */
export const FORMS = {
  add: z.strictObject({ a: z.int().min(0).max(99), operator: z.enum(['+', '-']) }),
  colour: z.strictObject({ name: z.enum(['red', 'green']), shade: z.string().max(4) }),
};

/** A call is of a tool that there is, with arguments of its schema. */
export function expectOfForm(name: string, given: unknown): void {
  expect(Object.keys(FORMS)).toContain(name);
  FORMS[name as keyof typeof FORMS].parse(given);
}

export const Sum = z.object({
  total: z.int().min(-50).max(50),
  any: z.int(),
  certainty: z.enum(['low', 'high']),
  steps: z.array(z.object({ word: z.string().max(3), done: z.boolean() })).max(2),
  note: z.string().max(5).nullable(),
});
