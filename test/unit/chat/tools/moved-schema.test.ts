import { expect, it } from 'vitest';
import { movedSchema } from '../../../../src/chat/tools/moved-schema.ts';

it('moves references with the schema, and nothing else', () => {
  const schema = {
    $ref: '#',
    $defs: { $ref: { $ref: '#/$defs/$ref' } },
    properties: { $ref: { type: 'string' }, a: { anyOf: [{ $ref: '#/properties/a' }] } },
    items: { $ref: 'other.json#/a' },
    const: { $ref: '#' },
    enum: [{ $ref: '#' }],
  };
  expect(movedSchema(schema, '/items')).toEqual({
    ...schema,
    $ref: '#/items',
    $defs: { $ref: { $ref: '#/items/$defs/$ref' } },
    properties: { $ref: { type: 'string' }, a: { anyOf: [{ $ref: '#/items/properties/a' }] } },
  });
});
