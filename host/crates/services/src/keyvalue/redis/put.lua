-- Begins every script that writes values.
--
-- KEYS: a hash of the values (16 digits of the version before each), a sorted set of the keys in
-- the order in which they came, and a hash of what the bucket holds (`bytes`, and `last`: the
-- place of the last key). ARGV: the most keys, the most bytes, then what the script takes.

local values, order, about = KEYS[1], KEYS[2], KEYS[3]

-- Numbers of Lua are printed in full, and not as 1e+15.
local function digits(number)
  return string.format('%.0f', number)
end

-- Gives keys values: a list of key, version, value. Nothing is written where a quota forbids.
local function put(entries)
  local keys = redis.call('HLEN', values)
  local bytes = tonumber(redis.call('HGET', about, 'bytes') or '0')
  local keys_before, bytes_before = keys, bytes
  local sizes = {}
  for i = 1, #entries, 3 do
    local key, value = entries[i], entries[i + 2]
    local size = sizes[key]
    if not size then
      size = redis.call('HSTRLEN', values, key) - 16
      if size < 0 then
        size = 0
        keys = keys + 1
        bytes = bytes + #key
      end
    end
    bytes = bytes - size + #value
    sizes[key] = #value
  end
  local max_keys, max_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
  if keys > max_keys and keys > keys_before then
    return {'keys', digits(keys)}
  end
  if bytes > max_bytes and bytes > bytes_before then
    return {'bytes', digits(bytes)}
  end
  for i = 1, #entries, 3 do
    local key = entries[i]
    if redis.call('HSET', values, key, entries[i + 1] .. entries[i + 2]) == 1 then
      redis.call('ZADD', order, digits(redis.call('HINCRBY', about, 'last', 1)), key)
    end
  end
  redis.call('HSET', about, 'bytes', digits(bytes))
  return {'ok'}
end
