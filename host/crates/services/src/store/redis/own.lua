-- Makes a chord a tenant's, unless it is another's.
--
-- KEYS: owner, and keys to drop: what is left of an earlier run of the same chord
-- ARGV: the tenant (encoded; empty for none), seconds to keep it
--
-- Answers 1 where it is the tenant's.
if (redis.call('GET', KEYS[1]) or ARGV[1]) ~= ARGV[1] then
    return 0
end
if tonumber(ARGV[2]) > 0 then
    redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
else
    redis.call('SET', KEYS[1], ARGV[1])
end
for place = 2, #KEYS do
    redis.call('DEL', KEYS[place])
end
return 1
