-- ARGV, after the quotas: key, version, value, and the version that is expected (empty: none).
local key, version, value, expected = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local found = redis.call('HGET', values, key)
local has = found and string.sub(found, 1, 16) or ''
if has ~= expected then
  return {'stale', has}
end
return put({key, version, value})
