-- Writes or removes a name if it is at the expected revision, and publishes that. Everything is
-- checked before the first write, so that the script changes all or nothing.
--
-- KEYS[1]  meta     hash
-- KEYS[2]  index    zset: names by revision
-- KEYS[3]  removed  zset: removed names by revision
-- KEYS[4]  log      zset: `<revision>:<change id>` of the last changes
-- KEYS[5]  name     hash of the name
-- KEYS[6]  refs     hash: digest -> names that keep it
-- KEYS[7]  blobs    hash: digest -> location
-- KEYS[8]  garbage  zset: digests without reference by the time they lost the last one
-- KEYS[9]  wanted   set: digests whose blob is missing
-- KEYS[10] done     string: the outcome of this change, for a retry
-- ARGV[1]  id of the registry
-- ARGV[2]  name
-- ARGV[3]  expected revision, 0 for none, or `damaged`
-- ARGV[4]  change id; the same for every try of one change
-- ARGV[5]  entry; empty to remove the name
-- ARGV[6]  digests that the entry keeps, separated by spaces
-- ARGV[7]  most names
-- ARGV[8]  1: the blobs of new digests must be committed
-- ARGV[9]  change id of an entry that the caller found damaged; empty for none
-- ARGV[10] channel of changes
-- ARGV[11] removals to remember
-- ARGV[12] changes to log
-- ARGV[13] milliseconds for which a retry finds the outcome
--
-- Results:
--   written <revision> <change id before>  (`?` when that is not known any more)
--   conflict
--   full
--   blobs_missing <digest>...
--   those of `head` (common.lua)

local found, refused = head(KEYS[1], KEYS[2], ARGV[1])
if not found then
  return refused
end
refused = mistyped({
  { KEYS[3], 'zset' }, { KEYS[4], 'zset' }, { KEYS[6], 'hash' }, { KEYS[7], 'hash' },
  { KEYS[8], 'zset' }, { KEYS[9], 'set' }, { KEYS[10], 'string' },
})
if refused then
  return refused
end

local name, change_id, entry = ARGV[2], ARGV[4], ARGV[5]
local score = redis.call('ZSCORE', KEYS[2], name)
local key_kind, revision_before, change_before, digests_before, sum, entry_before =
  unpack(stored(KEYS[5], true), 1, 6)

-- A retry finds its outcome. It writes as well, so that WAIT after it covers the first try.
local outcome = redis.call('GET', KEYS[10])
if outcome then
  redis.call('PEXPIRE', KEYS[10], ARGV[13])
  return { 'written', unpack(words(outcome), 1, 2) }
end
if score and change_before == change_id then
  redis.call('SET', KEYS[10], score .. ' ?', 'PX', ARGV[13])
  return { 'written', score, '?' }
end

local sound = key_kind == 'hash' and revision_before == score and change_before
  and digests_before and sum and entry_before
  and sum == checksum(name, revision_before, change_before, digests_before, entry_before)
if ARGV[3] == 'damaged' then
  local seen_damaged = ARGV[9] ~= '' and change_before == ARGV[9]
  if not score or (sound and not seen_damaged) then
    return { 'conflict' }
  end
elseif ARGV[3] == '0' then
  if score then
    return { 'conflict' }
  end
elseif score ~= ARGV[3] or not sound then
  return { 'conflict' }
end
if entry ~= '' and not score and found.names >= tonumber(ARGV[7]) then
  return { 'full' }
end

local kept_before, keeps = {}, {}
if score and sound then
  for _, digest in ipairs(words(digests_before)) do
    kept_before[digest] = true
  end
end
local missing = { 'blobs_missing' }
for _, digest in ipairs(words(ARGV[6])) do
  keeps[digest] = true
  if ARGV[8] == '1' and not kept_before[digest] and not redis.call('HGET', KEYS[7], digest) then
    missing[#missing + 1] = digest
  end
end
if #missing > 1 then
  return missing
end

-- The first write is refused as a whole where Redis refuses writes; a removal passes when memory is
-- full, since it frees some.
if entry == '' then
  redis.call('DEL', KEYS[5])
else
  redis.call('HSET', KEYS[1], 'names', whole(found.names))
end

-- References of an entry that cannot be read stay counted until all are counted again.
local counted = tonumber(redis.call('HGET', KEYS[1], 'digests'))
if redis.call('HLEN', KEYS[6]) ~= counted or (score and not sound) then
  redis.call('HSET', KEYS[1], 'stale', '1')
end

local revision = whole(found.revision + 1)
for digest in pairs(keeps) do
  if not kept_before[digest] then
    redis.call('HSET', KEYS[6], digest, whole(references(KEYS[6], digest) + 1))
    redis.call('ZREM', KEYS[8], digest)
  end
end
for digest in pairs(kept_before) do
  if not keeps[digest] then
    local left = references(KEYS[6], digest) - 1
    if left > 0 then
      redis.call('HSET', KEYS[6], digest, whole(left))
    else
      redis.call('HDEL', KEYS[6], digest)
      redis.call('SREM', KEYS[9], digest)
      if redis.call('HEXISTS', KEYS[7], digest) == 1 then
        redis.call('ZADD', KEYS[8], whole(now()), digest)
      end
    end
  end
end

if entry ~= '' then
  redis.call('DEL', KEYS[5])
  redis.call('HSET', KEYS[5], 'revision', revision, 'changeId', change_id, 'digests', ARGV[6],
    'entry', entry, 'checksum', checksum(name, revision, change_id, ARGV[6], entry))
  redis.call('ZADD', KEYS[2], revision, name)
  redis.call('ZREM', KEYS[3], name)
else
  redis.call('ZREM', KEYS[2], name)
  redis.call('ZADD', KEYS[3], revision, name)
  local surplus = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[11])
  if surplus > 0 then
    local forgotten = redis.call('ZPOPMIN', KEYS[3], surplus)
    redis.call('HSET', KEYS[1], 'floor', forgotten[#forgotten])
  end
end
redis.call('ZADD', KEYS[4], revision, revision .. ':' .. change_id)
redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -1 - tonumber(ARGV[12]))
redis.call('HSET', KEYS[1], 'revision', revision, 'changeId', change_id,
  'names', redis.call('ZCARD', KEYS[2]), 'digests', redis.call('HLEN', KEYS[6]))
local before = found.change_id == '' and '-' or found.change_id
redis.call('SET', KEYS[10], revision .. ' ' .. before, 'PX', ARGV[13])
-- A lost notice costs seconds, a failing one must not fail the change.
redis.pcall('PUBLISH', ARGV[10], found.id .. ' ' .. revision)
return { 'written', revision, before }
