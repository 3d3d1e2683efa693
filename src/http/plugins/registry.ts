/** Whether the names this server knows are all there are. */
import { LoramuxError } from '../../errors.ts';
import type { HttpServices } from '../services.ts';

type Services = Pick<HttpServices, 'adapters'>;

/** The registry was never read since the start, and no disk cache stands in for it. */
export function isConnecting({ adapters }: Services): boolean {
  return !adapters.isKnown;
}

/**
 * Before a list is answered: an empty one would look like there were no adapters.
 * @throws LoramuxError registry_unavailable
 */
export function requireRegistry(services: Services): void {
  if (!isConnecting(services)) return;
  const { reason } = services.adapters.registry();
  throw new LoramuxError(
    'registry_unavailable',
    `the adapter registry was not read yet${reason === undefined ? '' : ` (${reason})`}; retry`,
  );
}
