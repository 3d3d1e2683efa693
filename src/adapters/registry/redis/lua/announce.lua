-- Announces a replica until its announcement expires.
--
-- KEYS[1] replicas  zset: ids by the time their announcement expires
-- KEYS[2] replica   string: what this one says of itself, expires
-- ARGV[1] id
-- ARGV[2] what it says of itself
-- ARGV[3] milliseconds until it expires
-- ARGV[4] most replicas
--
-- Results:
--   ok
--   full                  there are as many live replicas as there may be
--   damaged <key> <type>  a key holds something that is not ours

local refused = mistyped({ { KEYS[1], 'zset' }, { KEYS[2], 'string' } })
if refused then
  return refused
end
local time = now()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. whole(time))
if not redis.call('ZSCORE', KEYS[1], ARGV[1])
  and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then
  return { 'full' }
end
redis.call('ZADD', KEYS[1], whole(time + tonumber(ARGV[3])), ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return { 'ok' }
