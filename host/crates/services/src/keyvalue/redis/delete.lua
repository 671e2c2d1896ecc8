-- KEYS as in put.lua. ARGV: the keys.
local values, order, about = KEYS[1], KEYS[2], KEYS[3]
local bytes = tonumber(redis.call('HGET', about, 'bytes') or '0')
for i = 1, #ARGV do
  local size = redis.call('HSTRLEN', values, ARGV[i]) - 16
  if size >= 0 then
    redis.call('HDEL', values, ARGV[i])
    redis.call('ZREM', order, ARGV[i])
    bytes = bytes - size - #ARGV[i]
  end
end
if redis.call('EXISTS', values) == 0 then
  redis.call('DEL', about)
else
  redis.call('HSET', about, 'bytes', string.format('%.0f', bytes))
end
return {'ok'}
