-- ARGV, after the quotas: key, version, value, and so on.
local entries = {}
for i = 3, #ARGV do
  entries[i - 2] = ARGV[i]
end
return put(entries)
