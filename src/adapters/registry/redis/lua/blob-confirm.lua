-- The bytes of a location are gone: nothing is left to be done about it.
--
-- KEYS[1] meta      hash
-- KEYS[2] index     zset
-- KEYS[3] uploads   zset: locations of uploads by the time they are given up
-- KEYS[4] deleting  zset: locations to delete by the time they may be claimed
-- ARGV[1] id of the registry
-- ARGV[2] location
--
-- Results:
--   ok
--   those of `head` (common.lua)

local found, refused = head(KEYS[1], KEYS[2], ARGV[1])
if not found then
  return refused
end
refused = mistyped({ { KEYS[3], 'zset' }, { KEYS[4], 'zset' } })
if refused then
  return refused
end
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('ZREM', KEYS[4], ARGV[2])
return { 'ok' }
