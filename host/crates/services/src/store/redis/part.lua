-- Counts a part of a chord, once, and claims the chord for whoever counts the last one.
-- The keys and their forms are those of Celery 5.7's Redis backend; its 5.6 knows the first three.
--
-- KEYS: results (a sorted set), size, more (how many parts more than `size`), counted (a set),
--       claim, group, owner
-- ARGV: task, place, what is kept, seconds to keep it, seconds that the claim holds, the claim,
--       the tenant (encoded; empty for none)
--
-- Answers with one of `done`, `waits`, `busy` (somebody else has claimed it, and is not done), `claimed`,
-- `other` (the chord is another tenant's).
local results, size, more, counted, claim, group, owner = unpack(KEYS)
local task, place, kept, keep, hold, token, tenant = unpack(ARGV)
if (redis.call('GET', owner) or tenant) ~= tenant then
    return 'other'
end
if redis.call('GET', claim) == 'done' then
    return 'done'
end
local member = task .. ':' .. place
redis.call('SET', owner, tenant)
if redis.call('SADD', counted, member) == 1 then
    redis.call('ZADD', results, place, kept)
end
if tonumber(keep) > 0 then
    for _, key in ipairs({results, size, more, counted, group, owner}) do
        redis.call('EXPIRE', key, keep)
    end
end
local total = tonumber(redis.call('GET', size) or -1) + tonumber(redis.call('GET', more) or 0)
if redis.call('ZCARD', results) ~= total then
    return 'waits'
end
if not redis.call('SET', claim, token, 'NX', 'EX', hold) then
    return 'busy'
end
return 'claimed'
