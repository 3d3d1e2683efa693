-- Digests that names keep and whose blob is missing.
--
-- KEYS[1] meta    hash
-- KEYS[2] index   zset
-- KEYS[3] blobs   hash: digest -> location
-- KEYS[4] wanted  set: digests whose blob is missing
-- KEYS[5] refs    hash: digest -> names that keep it
-- ARGV[1] id of the registry
-- ARGV[2] most digests
--
-- Results:
--   ok <digest>...
--   those of `head` (common.lua)

local found, refused = head(KEYS[1], KEYS[2], ARGV[1])
if not found then
  return refused
end
refused = mistyped({ { KEYS[3], 'hash' }, { KEYS[4], 'set' }, { KEYS[5], 'hash' } })
if refused then
  return refused
end
local result = { 'ok' }
for _, digest in ipairs(redis.call('SRANDMEMBER', KEYS[4], tonumber(ARGV[2]))) do
  if references(KEYS[5], digest) == 0 or redis.call('HEXISTS', KEYS[3], digest) == 1 then
    redis.call('SREM', KEYS[4], digest)
  else
    result[#result + 1] = digest
  end
end
return result
