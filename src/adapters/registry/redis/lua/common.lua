-- Begins every script. No key is believed to have the type it should: another program may have
-- written it, and Redis may have evicted it.
--
-- Results of `head`, which most scripts pass on when the registry cannot be used:
--   absent                    there is no registry (its head and its index are gone or never were)
--   headless                  the head is gone, the index is there
--   other <id>                another registry than the one that was meant
--   damaged <key> <type>      a key holds something that is not ours
--   index_gone <found> <names>  the index does not have as many names as the registry counts

local function kind(key)
  return redis.call('TYPE', key).ok
end

local function whole(number)
  return string.format('%.0f', number)
end

-- Milliseconds since the epoch by the clock of Redis, the one clock that all replicas share.
local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function words(text)
  local list = {}
  for word in string.gmatch(text, '%S+') do
    list[#list + 1] = word
  end
  return list
end

local function checksum(name, revision, change_id, digests, entry)
  return redis.sha1hex(table.concat({ name, revision, change_id, digests, entry }, '\n'))
end

-- Nil when each key of {key, type} pairs is absent or has its type, else the result to return.
local function mistyped(pairs_of_keys)
  for _, pair in ipairs(pairs_of_keys) do
    local found = kind(pair[1])
    if found ~= 'none' and found ~= pair[2] then
      return { 'damaged', pair[1], found }
    end
  end
  return nil
end

-- The head of the registry, or nil and the result to return. An empty id takes any registry.
local function head(meta_key, index_key, id)
  local meta_kind = kind(meta_key)
  local index_kind = kind(index_key)
  if meta_kind == 'none' then
    return nil, { index_kind == 'none' and 'absent' or 'headless' }
  end
  if meta_kind ~= 'hash' then
    return nil, { 'damaged', meta_key, meta_kind }
  end
  local fields = redis.call('HMGET', meta_key,
    'id', 'schema', 'revision', 'changeId', 'names', 'floor')
  local revision, names, floor = tonumber(fields[3]), tonumber(fields[5]), tonumber(fields[6])
  if not (fields[1] and fields[2] and revision and fields[4] and names and floor) then
    return nil, { 'damaged', meta_key, 'incomplete hash' }
  end
  if id ~= '' and fields[1] ~= id then
    return nil, { 'other', fields[1] }
  end
  if index_kind ~= 'none' and index_kind ~= 'zset' then
    return nil, { 'damaged', index_key, index_kind }
  end
  local count = redis.call('ZCARD', index_key)
  if count ~= names then
    return nil, { 'index_gone', whole(count), whole(names) }
  end
  return {
    id = fields[1],
    schema = fields[2],
    revision = revision,
    change_id = fields[4],
    names = names,
    floor = floor,
  }
end

-- Whether the registry's history has a change: 1 yes, 0 no (it took another turn), ? when the log
-- does not go back that far.
local function history(log_key, found, revision, change_id)
  local known = tonumber(revision)
  if known == found.revision then
    return found.change_id == change_id and '1' or '0'
  end
  if known > found.revision then
    return '0'
  end
  local logged = redis.call('ZRANGEBYSCORE', log_key, known, known, 'LIMIT', 0, 1)[1]
  if not logged then
    return known == 0 and '1' or '?'
  end
  return logged == revision .. ':' .. change_id and '1' or '0'
end

-- What is stored of a name: its key's type and, for a hash, its fields (false where there is none).
local function stored(name_key, with_entry)
  local found = kind(name_key)
  if found ~= 'hash' then
    return { found, false, false, false, false, false }
  end
  local fields = redis.call('HMGET', name_key, 'revision', 'changeId', 'digests', 'checksum')
  local entry = with_entry and redis.call('HGET', name_key, 'entry') or false
  return { found, fields[1], fields[2], fields[3], fields[4], entry }
end

-- References that names hold to the content of a digest.
local function references(refs_key, digest)
  return tonumber(redis.call('HGET', refs_key, digest)) or 0
end
