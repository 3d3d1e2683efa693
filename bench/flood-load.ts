/** The clients of `npm run bench -- flood`, in a process of their own. Prints the report as JSON. */
import { runFlood } from '../test/support/flood.ts';
import type { FloodOptions } from '../test/support/flood-stream.ts';

const options = JSON.parse(process.argv[2]!) as FloodOptions;
console.log(JSON.stringify(await runFlood(options)));
