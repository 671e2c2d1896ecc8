-- KEYS: the hash of the values. ARGV: the most bytes, then the keys.
local total = 0
for i = 2, #ARGV do
  total = total + math.max(redis.call('HSTRLEN', KEYS[1], ARGV[i]) - 16, 0)
end
if total > tonumber(ARGV[1]) then
  return {'bytes', string.format('%.0f', total)}
end
local answer = {'ok'}
for i = 2, #ARGV do
  answer[i] = redis.call('HGET', KEYS[1], ARGV[i])
end
return answer
