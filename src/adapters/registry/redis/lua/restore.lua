-- Writes a name's key again after Redis lost it (evicted, or deleted by somebody), as it was.
--
-- KEYS[1] meta   hash
-- KEYS[2] index  zset: names by revision
-- KEYS[3] name   hash of the name
-- KEYS[4] log    zset: `<revision>:<change id>` of the last changes
-- ARGV[1] id of the registry
-- ARGV[2] name
-- ARGV[3] revision, change id (ARGV[4]), digests (ARGV[5]) and entry (ARGV[6]) that are known
-- ARGV[7] revision up to which the caller knows the registry
-- ARGV[8] change id of that revision
--
-- Results:
--   restored
--   changed   the key is there, the name is at another revision, or it cannot be told that what the
--             caller knows is of the same history
--   those of `head` (common.lua)

local found, refused = head(KEYS[1], KEYS[2], ARGV[1])
if not found then
  return refused
end
refused = mistyped({ { KEYS[4], 'zset' } })
if refused then
  return refused
end
if redis.call('ZSCORE', KEYS[2], ARGV[2]) ~= ARGV[3] or kind(KEYS[3]) ~= 'none'
  or history(KEYS[4], found, ARGV[7], ARGV[8]) ~= '1' then
  return { 'changed' }
end
redis.call('HSET', KEYS[3], 'revision', ARGV[3], 'changeId', ARGV[4], 'digests', ARGV[5],
  'entry', ARGV[6], 'checksum', checksum(ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]))
return { 'restored' }
