-- Withdraws the announcement of a replica.
--
-- KEYS[1] replicas  zset: ids by the time their announcement expires
-- KEYS[2] replica   string: what this one says of itself
-- ARGV[1] id
--
-- Results:
--   ok
--   damaged <key> <type>  a key holds something that is not ours

local refused = mistyped({ { KEYS[1], 'zset' }, { KEYS[2], 'string' } })
if refused then
  return refused
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
return { 'ok' }
