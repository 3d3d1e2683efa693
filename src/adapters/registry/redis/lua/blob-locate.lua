-- Where the blob of a digest is. Asking shows interest: a blob without reference keeps its grace
-- time from now on, and one that names keep but that is nowhere becomes wanted.
--
-- KEYS[1] meta     hash
-- KEYS[2] index    zset
-- KEYS[3] blobs    hash: digest -> location
-- KEYS[4] garbage  zset: digests without reference by the time they lost the last one
-- KEYS[5] wanted   set: digests whose blob is missing
-- KEYS[6] refs     hash: digest -> names that keep it
-- ARGV[1] id of the registry
-- ARGV[2] digest
--
-- Results:
--   at <location>
--   nowhere
--   those of `head` (common.lua)

local found, refused = head(KEYS[1], KEYS[2], ARGV[1])
if not found then
  return refused
end
refused = mistyped({
  { KEYS[3], 'hash' }, { KEYS[4], 'zset' }, { KEYS[5], 'set' }, { KEYS[6], 'hash' },
})
if refused then
  return refused
end
local location = redis.call('HGET', KEYS[3], ARGV[2])
if location then
  redis.call('ZADD', KEYS[4], 'XX', whole(now()), ARGV[2])
  return { 'at', location }
end
if references(KEYS[6], ARGV[2]) > 0 then
  redis.call('SADD', KEYS[5], ARGV[2])
end
return { 'nowhere' }
