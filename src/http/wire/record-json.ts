/**
 * Lists of adapters as JSON text. A record never changes, so its text is made once: with ten
 * thousand adapters, serialising all of them for each request would hold up running streams.
 */
import type { AdapterRecord } from '../../adapters/types.ts';

/** A function from records to their JSON texts, joined by commas. */
export function recordTexts(
  toWire: (record: AdapterRecord) => object,
): (records: readonly AdapterRecord[]) => string {
  const texts = new WeakMap<AdapterRecord, string>();
  return (records) =>
    records
      .map((record) => {
        let text = texts.get(record);
        if (text === undefined) {
          text = JSON.stringify(toWire(record));
          texts.set(record, text);
        }
        return text;
      })
      .join(',');
}
