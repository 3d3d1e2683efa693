-- Lists the live replicas, some at a time.
--
-- KEYS[1] replicas  zset: ids by the time their announcement expires
-- ARGV[1] how many to pass over
-- ARGV[2] most replicas of an answer
-- ARGV[3] what the keys of replicas begin with (same slot as KEYS)
--
-- Results:
--   ok <looked at> <what each live one says of itself>...
--   damaged <key> <type>  a key holds something that is not ours

local refused = mistyped({ { KEYS[1], 'zset' } })
if refused then
  return refused
end
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], whole(now()), '+inf', 'LIMIT', ARGV[1], ARGV[2])
local result = { 'ok', whole(#ids) }
for _, id in ipairs(ids) do
  local key = ARGV[3] .. id
  if kind(key) == 'string' then
    result[#result + 1] = redis.call('GET', key)
  end
end
return result
