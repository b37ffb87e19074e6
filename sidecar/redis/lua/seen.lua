-- Look event_ids, or origins, up in the deduplication index. Writes nothing.
--
-- KEYS  for each its shard of the index
-- ARGV  for each 14 bytes of its digest
-- Answer { what the index knows of it, or nothing, ... }
local answer = {}
for i = 1, #KEYS do answer[i] = redis.call('HGET', KEYS[i], ARGV[i]) end
return answer
