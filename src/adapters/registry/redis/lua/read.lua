-- Reads one name.
--
-- KEYS[1] meta   hash
-- KEYS[2] index  zset: names by revision
-- KEYS[3] name   hash of the name
-- ARGV[1] id of the registry
-- ARGV[2] name
--
-- Results:
--   none   there is no such name
--   name <name> <revision> <type of its key> <revision> <change id> <digests> <checksum> <entry>
--   those of `head` (common.lua)

local found, refused = head(KEYS[1], KEYS[2], ARGV[1])
if not found then
  return refused
end
local revision = redis.call('ZSCORE', KEYS[2], ARGV[2])
if not revision then
  return { 'none' }
end
return { 'name', ARGV[2], revision, unpack(stored(KEYS[3], true), 1, 6) }
