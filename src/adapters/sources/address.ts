/** Which addresses a server that fetches for its clients may connect to. */
import ipaddr from 'ipaddr.js';

/** What the range of an IPv6 address embeds an IPv4 address in. */
const MAPPED = ipaddr.IPv6.parseCIDR('::ffff:0:0/96');
/** DNS64 answers with these for every IPv4 host in networks that have IPv6 only. */
const NAT64 = ipaddr.IPv6.parseCIDR('64:ff9b::/96');
const SIX_TO_FOUR = ipaddr.IPv6.parseCIDR('2002::/16');
const TEREDO = ipaddr.IPv6.parseCIDR('2001::/32');
/** All that is or will be global unicast; the rest of the space has special meanings. */
const GLOBAL_UNICAST = ipaddr.IPv6.parseCIDR('2000::/3');

/**
 * Whether an address is a public unicast one. Forms that carry an IPv4 address reach, or may reach,
 * that address, so it must be public as well.
 *
 * @param text an IPv4 or IPv6 address without brackets; anything else is not public.
 */
export function isPublicAddress(text: string): boolean {
  if (!ipaddr.IPv4.isValidFourPartDecimal(text) && !ipaddr.IPv6.isValid(text)) return false;
  const address = ipaddr.parse(text);
  if (address instanceof ipaddr.IPv4) return address.range() === 'unicast';
  const bytes = address.toByteArray();
  if (address.match(MAPPED) || address.match(NAT64)) return isPublicV4(bytes.slice(12));
  if (address.match(SIX_TO_FOUR)) return isPublicV4(bytes.slice(2, 6));
  if (address.match(TEREDO)) {
    const client = bytes.slice(12).map((byte) => byte ^ 0xff);
    return isPublicV4(bytes.slice(4, 8)) && isPublicV4(client);
  }
  return address.match(GLOBAL_UNICAST) && address.range() === 'unicast';
}

function isPublicV4(bytes: readonly number[]): boolean {
  return ipaddr.fromByteArray([...bytes]).range() === 'unicast';
}
