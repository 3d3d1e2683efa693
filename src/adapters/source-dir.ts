export { CONFIG_FILE, openSourceDir, WEIGHTS_FILE } from './sources/source-dir.ts';
