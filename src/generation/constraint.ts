/** What the text of an answer must be; the transport builds it, the grammar engine enforces it. */
import type { JsonObject } from '../importer/json.ts';

export type Constraint = {
  /** The field of the request that it came in, for errors. */
  readonly field?: string | undefined;
} & ConstraintKind;

type ConstraintKind =
  /** Any JSON object. */
  | { readonly kind: 'json_object' }
  /** JSON that a schema accepts. */
  | { readonly kind: 'json_schema'; readonly schema: JsonObject | boolean }
  /** The whole text matches. */
  | { readonly kind: 'regex'; readonly pattern: string }
  /** One of the texts. */
  | { readonly kind: 'choice'; readonly choices: readonly string[] }
  /** A grammar in XGrammar's EBNF, whose first rule is `root`. */
  | { readonly kind: 'grammar'; readonly ebnf: string }
  /** Free text with constrained parts, as XGrammar's structural tags describe it. */
  | { readonly kind: 'structural_tag'; readonly tag: JsonObject };
