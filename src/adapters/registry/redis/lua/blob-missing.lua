-- Forgets a blob that is missing or wrong where it should be, and wants it if names keep it.
--
-- KEYS[1] meta      hash
-- KEYS[2] index     zset
-- KEYS[3] blobs     hash: digest -> location
-- KEYS[4] garbage   zset: digests without reference by the time they lost the last one
-- KEYS[5] wanted    set: digests whose blob is missing
-- KEYS[6] refs      hash: digest -> names that keep it
-- KEYS[7] deleting  zset: locations to delete by the time they may be claimed
-- ARGV[1] id of the registry
-- ARGV[2] digest
-- ARGV[3] location that was looked at
--
-- Results:
--   ok   also when another location is in force by now
--   those of `head` (common.lua)

local found, refused = head(KEYS[1], KEYS[2], ARGV[1])
if not found then
  return refused
end
refused = mistyped({
  { KEYS[3], 'hash' }, { KEYS[4], 'zset' }, { KEYS[5], 'set' }, { KEYS[6], 'hash' },
  { KEYS[7], 'zset' },
})
if refused then
  return refused
end
if redis.call('HGET', KEYS[3], ARGV[2]) ~= ARGV[3] then
  return { 'ok' }
end
redis.call('HDEL', KEYS[3], ARGV[2])
redis.call('ZREM', KEYS[4], ARGV[2])
redis.call('ZADD', KEYS[7], '0', ARGV[3])
if references(KEYS[6], ARGV[2]) > 0 then
  redis.call('SADD', KEYS[5], ARGV[2])
end
return { 'ok' }
