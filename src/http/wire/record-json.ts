/**
 * Lists of adapters as JSON text. A record never changes, so its text is made once: with ten
 * thousand adapters, serialising all of them for each request would hold up running streams.
 */
import type { AdapterRecord } from '../../adapters/types.ts';

/**
 * A function from records to their JSON texts, joined by commas. `more` is serialised anew for each
 * request and added to the record's object.
 */
export function recordTexts(
  toWire: (record: AdapterRecord) => object,
  more?: (record: AdapterRecord) => object,
): (records: readonly AdapterRecord[]) => string {
  const texts = new WeakMap<AdapterRecord, string>();
  const textOf = (record: AdapterRecord): string => {
    let text = texts.get(record);
    if (text === undefined) {
      text = JSON.stringify(toWire(record));
      texts.set(record, text);
    }
    if (more === undefined) return text;
    return `${text.slice(0, -1)},${JSON.stringify(more(record)).slice(1)}`;
  };
  return (records) => records.map(textOf).join(',');
}
