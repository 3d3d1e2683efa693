/**
 * JSON without silent repairs: `JSON.parse` keeps the last of two equal keys, so two readers of one
 * file may see two different files. Here a repeated key is an error.
 */

export type JsonValue = null | boolean | number | string | JsonValue[] | JsonObject;
export type JsonObject = { [key: string]: JsonValue };

/** True for a JSON object (not an array, not null). */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * Decodes UTF-8 strictly (invalid sequences and a byte order mark are errors) and parses.
 * @throws SyntaxError (also for repeated keys) or TypeError (invalid UTF-8).
 */
export function parseJsonBytes(bytes: Uint8Array): JsonValue {
  return parseJson(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
}

/**
 * `JSON.parse` that also refuses repeated keys within one object.
 * @throws SyntaxError naming the repeated key and its offset.
 */
export function parseJson(text: string): JsonValue {
  const value = JSON.parse(text) as JsonValue;
  refuseRepeatedKeys(text);
  return value;
}

/** `text` is valid JSON already, so a scan for strings and brackets is enough. */
function refuseRepeatedKeys(text: string): void {
  // One entry per open bracket: the keys seen in an object, undefined for an array.
  const open: (Set<string> | undefined)[] = [];
  let expectKey = false;
  for (let i = 0; i < text.length; i++) {
    switch (text.charCodeAt(i)) {
      case 0x7b /* { */:
        open.push(new Set());
        expectKey = true;
        break;
      case 0x5b /* [ */:
        open.push(undefined);
        expectKey = false;
        break;
      case 0x7d /* } */:
      case 0x5d /* ] */:
        open.pop();
        expectKey = false;
        break;
      case 0x2c /* , */:
        expectKey = open.at(-1) !== undefined;
        break;
      case 0x22 /* " */:
        {
          const end = endOfString(text, i);
          if (expectKey) {
            const key = JSON.parse(text.slice(i, end + 1)) as string;
            const keys = open.at(-1)!;
            if (keys.has(key)) {
              throw new SyntaxError(`Key ${JSON.stringify(key)} is repeated at offset ${i}`);
            }
            keys.add(key);
            expectKey = false;
          }
          i = end;
          break;
        }
      default:
    }
  }
}

/** Offset of the quote that closes the string opened at `start`. */
function endOfString(text: string, start: number): number {
  for (let i = start + 1; ; i++) {
    const code = text.charCodeAt(i);
    if (code === 0x5c /* \ */) i++;
    else if (code === 0x22) return i;
  }
}
