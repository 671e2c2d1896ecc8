-- Keeps a task's state unless it has succeeded, or is another tenant's, and tells whoever listens.
--
-- KEYS: the task's key, which is the channel, too
-- ARGV: the value, seconds to keep it, the tenant (encoded; empty for none), '1' where a compressed
-- value is known to be no success
--
-- A value of ours begins with its tenant, where it has one. Answers 1 (kept), 0 (a success stands),
-- 2 (another tenant's), 3 (a compressed value stands, which a script cannot read).
local before = redis.call('GET', KEYS[1])
if before and string.sub(before, 1, 19) == '\0celery-compressed\0' then
    if ARGV[4] ~= '1' then
        return 3
    end
elseif before then
    local owner = string.match(before, '^{"lovage_tenant":"([^"]*)",')
    local status = string.match(before, '^{"status": ?"(%u+)"')
        or string.match(before, '^{"lovage_tenant":"[^"]*","status": ?"(%u+)"')
    if not status and not owner then
        local read, meta = pcall(cjson.decode, before)
        status = read and type(meta) == 'table' and meta['status'] or nil
    end
    local ready = status == 'SUCCESS' or status == 'FAILURE' or status == 'REVOKED'
    if owner and owner ~= ARGV[3] then
        return 2
    end
    if not owner and ARGV[3] ~= '' and ready then
        return 2
    end
    if status == 'SUCCESS' then
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
