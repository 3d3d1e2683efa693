/** Which adapter names are allowed. */
import { LoramuxError } from '../errors.ts';

const NAME = /^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$/;

/**
 * Names are letters, digits and `._:/-`, begin with a letter or digit, have at most 128 characters,
 * and as paths neither climb nor have empty parts.
 * @throws LoramuxError adapter_name_invalid.
 */
export function checkAdapterName(name: string, baseModelName: string): void {
  const fail = (why: string): never => {
    const shown = JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}...` : name);
    throw new LoramuxError('adapter_name_invalid', `The adapter name ${shown} ${why}.`, {
      param: 'name',
    });
  };
  if (!NAME.test(name)) {
    fail('must begin with a letter or digit and have 1 to 128 letters, digits or ._:/-');
  }
  if (name.split('/').some((part) => part === '' || part === '.' || part === '..')) {
    fail('has an empty or dot part between slashes');
  }
  if (name === baseModelName) fail('is the name of the base model');
}
