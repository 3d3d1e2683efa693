-- Takes locations whose bytes may be deleted. A claim that is not confirmed in time can be taken
-- again, so a claimer that dies leaves nothing behind.
--
-- KEYS[1] meta      hash
-- KEYS[2] index     zset
-- KEYS[3] uploads   zset: locations of uploads by the time they are given up
-- KEYS[4] blobs     hash: digest -> location
-- KEYS[5] garbage   zset: digests without reference by the time they lost the last one
-- KEYS[6] refs      hash: digest -> names that keep it
-- KEYS[7] deleting  zset: locations to delete by the time they may be claimed
-- ARGV[1] id of the registry
-- ARGV[2] most locations
-- ARGV[3] grace time of a blob without reference, milliseconds
-- ARGV[4] time for a claim, milliseconds
--
-- Results:
--   ok <stale> <location>...
--      stale  1: the count of references is not to be trusted, so no blob was given up for lack of
--             them; count again (refs-rebuild.lua)
--   those of `head` (common.lua)

local found, refused = head(KEYS[1], KEYS[2], ARGV[1])
if not found then
  return refused
end
refused = mistyped({
  { KEYS[3], 'zset' }, { KEYS[4], 'hash' }, { KEYS[5], 'zset' }, { KEYS[6], 'hash' },
  { KEYS[7], 'zset' },
})
if refused then
  return refused
end
local time, max = now(), tonumber(ARGV[2])
for _, location in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', whole(time),
  'LIMIT', 0, max)) do
  redis.call('ZREM', KEYS[3], location)
  redis.call('ZADD', KEYS[7], '0', location)
end

local trust = redis.call('HMGET', KEYS[1], 'stale', 'digests')
local stale = trust[1] ~= '0' or redis.call('HLEN', KEYS[6]) ~= tonumber(trust[2])
if not stale then
  for _, digest in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf',
    whole(time - tonumber(ARGV[3])), 'LIMIT', 0, max)) do
    redis.call('ZREM', KEYS[5], digest)
    local location = redis.call('HGET', KEYS[4], digest)
    if location and references(KEYS[6], digest) == 0 then
      redis.call('HDEL', KEYS[4], digest)
      redis.call('ZADD', KEYS[7], '0', location)
    end
  end
end

local result = { 'ok', stale and '1' or '0' }
for _, location in ipairs(redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', whole(time),
  'LIMIT', 0, max)) do
  redis.call('ZADD', KEYS[7], whole(time + tonumber(ARGV[4])), location)
  result[#result + 1] = location
end
return result
