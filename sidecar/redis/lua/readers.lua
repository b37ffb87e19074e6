-- Read a page of the registered readers, and sweep away names of which there is no reader. What
-- readers wrote is not trusted: no more of it is sent than a reader may write.
--
-- KEYS  1 the names
-- ARGV  1 where the page begins   2 how the key of a reader begins, before its name
--       3 longest name, in bytes   4 longest value
-- Answer { where the next page begins, 0 after the last; name, value or nothing, ... }
local page = redis.call('SSCAN', KEYS[1], ARGV[1], 'COUNT', 1000)
local answer = {page[1]}
for _, name in ipairs(page[2]) do
  local key = ARGV[2] .. name
  if #name > tonumber(ARGV[3]) or (name ~= '' and redis.call('EXISTS', key) == 0) then
    redis.call('SREM', KEYS[1], name)
  elseif name ~= '' then  -- that one keeps the set, and is no reader
    local value = redis.pcall('GETRANGE', key, 0, ARGV[4])
    answer[#answer + 1] = name
    answer[#answer + 1] = type(value) == 'string' and value or false
  end
end
return answer
