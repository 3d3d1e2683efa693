// What the compiler leaves behind: files that the sources read at run time, copied to dist/.
import { cpSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const ASSETS = ['adapters/registry/redis/lua'];

for (const asset of ASSETS) {
  cpSync(path.join(root, 'src', asset), path.join(root, 'dist', asset), { recursive: true });
}
