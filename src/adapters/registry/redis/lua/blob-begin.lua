-- Records that an upload begins.
--
-- KEYS[1] meta     hash
-- KEYS[2] index    zset
-- KEYS[3] uploads  zset: locations of uploads by the time they are given up
-- ARGV[1] id of the registry
-- ARGV[2] location, `<digest>/<unique>`
-- ARGV[3] milliseconds after which it is given up
--
-- Results:
--   ok
--   those of `head` (common.lua)

local found, refused = head(KEYS[1], KEYS[2], ARGV[1])
if not found then
  return refused
end
refused = mistyped({ { KEYS[3], 'zset' } })
if refused then
  return refused
end
redis.call('ZADD', KEYS[3], whole(now() + tonumber(ARGV[3])), ARGV[2])
return { 'ok' }
