-- ARGV, after the quotas: key, version, delta. Answers with the number.
local key, version, delta = ARGV[3], ARGV[4], ARGV[5]
local found = redis.call('HGET', values, key)
local number = '0'
if found then
  number = string.sub(found, 17)
  -- No number of 64 bits is longer; what is need not be copied to find that out.
  if #number > 20 then
    return {'number'}
  end
end
-- Lua's own numbers are exact up to 53 bits; those of a hash's field have 64.
redis.call('HSET', about, 'number', number)
local added = redis.pcall('HINCRBY', about, 'number', delta)
local sum = redis.call('HGET', about, 'number')
redis.call('HDEL', about, 'number')
if type(added) == 'table' and added.err then
  if string.find(added.err, 'overflow', 1, true) then
    return {'overflow'}
  end
  return {'number'}
end
local done = put({key, version, sum})
done[2] = done[2] or sum
return done
