-- Keeps a task's state unless it has succeeded, and tells whoever listens.
--
-- KEYS: the task's key, which is the channel, too
-- ARGV: the value, seconds to keep it
local before = redis.call('GET', KEYS[1])
if before then
    local read, meta = pcall(cjson.decode, before)
    if read and type(meta) == 'table' and meta['status'] == 'SUCCESS' then
        return 0
    end
end
if tonumber(ARGV[2]) > 0 then
    redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
else
    redis.call('SET', KEYS[1], ARGV[1])
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
