/** Named limits of constraints and their grammars. */

/** Characters of a constraint as a request gives it: a schema as JSON, a pattern, all choices. */
export const CONSTRAINT_LENGTH_MAX = 131_072;
/** The same as JSON, where characters may be escaped; more is not looked at. */
export const KEYED_LENGTH_MAX = 8 * CONSTRAINT_LENGTH_MAX;
/** Values within values of a schema. */
export const SCHEMA_DEPTH_MAX = 64;
/** Repetitions of one part, and lengths and counts in a schema. */
export const REPETITIONS_MAX = 4096;
/** Rules of the grammar that a schema becomes. */
export const RULES_MAX = 8192;
/** Characters of the grammar's text. */
export const GRAMMAR_LENGTH_MAX = 1_048_576;
/** Repetitions of a choice that are written out one by one; each takes masks of its own. */
export const WRITTEN_OUT_MAX = 8;
/** Simpler grammars that stand in for one until its strings come near the length they may have. */
export const RELAXED_MAX = 3;
/** Characters of a member's name that a schema does not name. */
export const NAME_LENGTH_MAX = 64;
/** White space characters between two tokens of JSON. */
export const JSON_SPACE_MAX = 16;
/** Digits before and after the point of a number of JSON, so that no number is too large to read. */
export const JSON_DIGITS_MAX = 15;
/** Characters beyond ASCII that one class of a pattern may name. */
export const CLASS_CHARS_MAX = 256;
/** Places of one pattern or format that is intersected with others, and rules that this becomes. */
export const AUTOMATON_STATES_MAX = 20_000;
export const PRODUCT_STATES_MAX = 4096;
/** Depth of groups in a pattern. */
export const PATTERN_DEPTH_MAX = 100;
/** Requests that wait for a grammar to be prepared; more are refused with queue_full. */
export const PREPARE_QUEUE_MAX = 1024;
/** Different grammars that requests use or wait for at once. */
export const LIVE_GRAMMARS_MAX = 256;
/** Characters of prepared grammars that a thread keeps beyond those in use. */
export const CACHED_LENGTH_MAX = 4_194_304;
/** Grammars prepared before those who wait for the first of them go on, and milliseconds of it. */
export const ROUND_GRAMMARS_MAX = 16;
export const ROUND_MS_MAX = 200;
/** Times in a row that a grammar in use may fail to be prepared again before those who wait are told. */
export const TAKE_OVER_ATTEMPTS_MAX = 3;
/** Starts of a thread in a row that may fail. */
export const START_ATTEMPTS_MAX = 2;
/** Milliseconds a thread may take to start: it reads the tokenizer. */
export const START_MS_MAX = 60_000;
/** Bytes of one thread's WebAssembly memory. */
export const THREAD_MEMORY_MAX = 1_073_741_824;
/** JavaScript heap of one thread, MiB. */
export const THREAD_HEAP_MB_MAX = 512;
