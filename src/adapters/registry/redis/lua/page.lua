-- One bounded page of a reading: names that changed after a revision, and names that were removed.
-- Names move to the end of the index when they change, so a reading that goes on after the last
-- revision it saw misses nothing, however much changes between two pages.
--
-- KEYS[1] meta     hash
-- KEYS[2] index    zset: names by revision
-- KEYS[3] removed  zset: removed names by revision
-- KEYS[4] log      zset: `<revision>:<change id>` of the last changes
-- ARGV[1] id of the registry
-- ARGV[2] revision that the reader knows; 0 for none
-- ARGV[3] change id of that revision
-- ARGV[4] names after this revision
-- ARGV[5] removals after this revision; +inf for none
-- ARGV[6] most names, and most removals, of a page
-- ARGV[7] bytes of entries after which the page ends
-- ARGV[8] 1: with the entries; 0: only what identifies them
-- ARGV[9] what the keys of names begin with (same slot as KEYS)
--
-- Results:
--   ok <revision> <change id> <names> <floor> <past> <more> <changed> <removed>
--      floor    removals up to this revision are forgotten
--      past     1 when the registry's history has the reader's revision, 0 when it took another
--               turn, ? when it does not go back that far
--      more     1 when there is another page
--      changed  a list of [name, revision, type of its key, revision, change id, digests, checksum,
--               entry]
--      removed  a flat list of names and revisions
--   those of `head` (common.lua)

local found, refused = head(KEYS[1], KEYS[2], ARGV[1])
if not found then
  return refused
end
refused = mistyped({ { KEYS[3], 'zset' }, { KEYS[4], 'zset' } })
if refused then
  return refused
end

local limit, bytes_max = tonumber(ARGV[6]), tonumber(ARGV[7])
local more = 0
local names = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[4], '+inf', 'WITHSCORES',
  'LIMIT', 0, limit)
if #names == limit * 2 then
  more = 1
end
local changed, bytes = {}, 0
for i = 1, #names, 2 do
  if bytes > bytes_max then
    more = 1
    break
  end
  local fields = stored(ARGV[9] .. names[i], ARGV[8] == '1')
  bytes = bytes + (fields[6] and #fields[6] or 0)
  changed[#changed + 1] = { names[i], names[i + 1], unpack(fields, 1, 6) }
end

local removed = {}
if ARGV[5] ~= '+inf' then
  removed = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[5], '+inf', 'WITHSCORES',
    'LIMIT', 0, limit)
  if #removed == limit * 2 then
    more = 1
  end
end
return { 'ok', whole(found.revision), found.change_id, whole(found.names), whole(found.floor),
  history(KEYS[4], found, ARGV[2], ARGV[3]), whole(more), changed, removed }
