/** Refusing what a schema cannot. */
import { LoramuxError } from '../../errors.ts';

/** An error about the value of one field. */
export const refuse = (message: string, param: string) =>
  new LoramuxError('invalid_request', message, { param });
