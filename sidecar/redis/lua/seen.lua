-- Look event_ids, or origins, up in the deduplication index. Writes nothing.
--
-- KEYS  for each its shard of the index
-- ARGV  for each 14 bytes of its digest
-- Answer { what the index knows of it, or nothing, ... }. An error names the shard.
local answer = {}
for i = 1, #KEYS do
  answer[i] = redis.pcall('HGET', KEYS[i], ARGV[i])
  if type(answer[i]) == 'table' then
    return redis.error_reply(answer[i].err .. ': look at ' .. KEYS[i])
  end
end
return answer
