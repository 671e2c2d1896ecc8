-- Drops what is kept of a chord by whoever has claimed it, and remembers for a while that it is
-- over, so that a part that comes once more does not begin it anew.
--
-- KEYS: results, size, more, counted, claim, owner
-- ARGV: the claim, seconds to remember
local claim = KEYS[5]
if redis.call('GET', claim) ~= ARGV[1] then
    return 0
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('EXPIRE', KEYS[6], ARGV[2])
redis.call('SET', claim, 'done', 'EX', ARGV[2])
return 1
