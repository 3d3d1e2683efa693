-- Counts all references again, after the count was lost or an entry was overwritten that could not
-- be read. Takes time in proportion to the number of names; needed after damage only.
--
-- KEYS[1] meta     hash
-- KEYS[2] index    zset: names by revision
-- KEYS[3] blobs    hash: digest -> location
-- KEYS[4] garbage  zset: digests without reference by the time they lost the last one
-- KEYS[5] wanted   set: digests whose blob is missing
-- KEYS[6] refs     hash: digest -> names that keep it
-- ARGV[1] id of the registry
-- ARGV[2] what the keys of names begin with (same slot as KEYS)
-- ARGV[3] 1: kept digests without a blob are wanted
--
-- Results:
--   ok <digests>
--   unreadable <name>   a name is damaged: what it keeps is unknown, so nothing was changed
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
local counts, total = {}, 0
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local fields = stored(ARGV[2] .. name, true)
  local complete = fields[2] and fields[3] and fields[4] and fields[5] and fields[6]
  if not complete
    or fields[5] ~= checksum(name, fields[2], fields[3], fields[4], fields[6]) then
    return { 'unreadable', name }
  end
  for _, digest in ipairs(words(fields[4])) do
    counts[digest] = (counts[digest] or 0) + 1
  end
end
redis.call('DEL', KEYS[6])
for digest, count in pairs(counts) do
  total = total + 1
  redis.call('HSET', KEYS[6], digest, whole(count))
  redis.call('ZREM', KEYS[4], digest)
  if ARGV[3] == '1' and redis.call('HEXISTS', KEYS[3], digest) == 0 then
    redis.call('SADD', KEYS[5], digest)
  end
end
local time = whole(now())
for _, digest in ipairs(redis.call('HKEYS', KEYS[3])) do
  if not counts[digest] then
    redis.call('ZADD', KEYS[4], 'NX', time, digest)
  end
end
redis.call('HSET', KEYS[1], 'digests', whole(total), 'stale', '0')
return { 'ok', whole(total) }
