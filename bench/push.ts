/** PUT of a PEFT folder. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';

/** @returns the generation. @throws Error with the server's answer when it is refused. */
export async function pushFolder(url: string, name: string, folder: string): Promise<string> {
  const form = new FormData();
  for (const file of ['adapter_config.json', 'adapter_model.safetensors']) {
    form.set(file, new Blob([await readFile(path.join(folder, file))]), file);
  }
  const route = `${url}/v1/adapters/${encodeURIComponent(name)}`;
  const response = await fetch(route, { method: 'PUT', body: form });
  const text = await response.text();
  if (!response.ok) throw new Error(text);
  return (JSON.parse(text) as { generation: string }).generation;
}
