/** The version of this build, from package.json. */
import { readFileSync } from 'node:fs';

// One level up from src/ and from dist/ alike.
const file = new URL('../package.json', import.meta.url);

export const VERSION: string = (JSON.parse(readFileSync(file, 'utf8')) as { version: string })
  .version;
