-- Makes an uploaded location the blob of its digest, unless there is one already.
--
-- KEYS[1] meta      hash
-- KEYS[2] index     zset
-- KEYS[3] uploads   zset: locations of uploads by the time they are given up
-- KEYS[4] blobs     hash: digest -> location
-- KEYS[5] garbage   zset: digests without reference by the time they lost the last one
-- KEYS[6] wanted    set: digests whose blob is missing
-- KEYS[7] refs      hash: digest -> names that keep it
-- KEYS[8] deleting  zset: locations to delete by the time they may be claimed
-- ARGV[1] id of the registry
-- ARGV[2] digest
-- ARGV[3] location
--
-- Results:
--   ok <location in force>
--   expired   the upload was given up; what it wrote will be deleted
--   those of `head` (common.lua)

local found, refused = head(KEYS[1], KEYS[2], ARGV[1])
if not found then
  return refused
end
refused = mistyped({
  { KEYS[3], 'zset' }, { KEYS[4], 'hash' }, { KEYS[5], 'zset' }, { KEYS[6], 'set' },
  { KEYS[7], 'hash' }, { KEYS[8], 'zset' },
})
if refused then
  return refused
end
local digest, location = ARGV[2], ARGV[3]
local current = redis.call('HGET', KEYS[4], digest)
if current == location then
  return { 'ok', location }
end
-- What was written after somebody took it for given up is deleted once more.
if redis.call('ZREM', KEYS[3], location) == 0 then
  redis.call('ZADD', KEYS[8], '0', location)
  return { 'expired' }
end
if current then
  redis.call('ZADD', KEYS[8], '0', location)
else
  redis.call('HSET', KEYS[4], digest, location)
  redis.call('SREM', KEYS[6], digest)
end
if references(KEYS[7], digest) == 0 then
  redis.call('ZADD', KEYS[5], whole(now()), digest)
end
return { 'ok', current or location }
