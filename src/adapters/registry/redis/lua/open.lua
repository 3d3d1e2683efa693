-- Opens the registry, and creates it where there is none.
--
-- KEYS[1] meta   hash: the head
-- KEYS[2] index  zset: names by the revision of their last change
-- ARGV[1] schema version that this server speaks
-- ARGV[2] id for a new registry; empty to create none
--
-- Results:
--   ok <id>
--   schema <found>  the registry is of another schema version
--   those of `head` (common.lua), but not `other`

local found, refused = head(KEYS[1], KEYS[2], '')
if found then
  if found.schema ~= ARGV[1] then
    return { 'schema', found.schema }
  end
  return { 'ok', found.id }
end
if refused[1] ~= 'absent' or ARGV[2] == '' then
  return refused
end
redis.call('HSET', KEYS[1], 'id', ARGV[2], 'schema', ARGV[1], 'revision', '0', 'changeId', '',
  'names', '0', 'floor', '0', 'digests', '0', 'stale', '0')
return { 'ok', ARGV[2] }
