-- Forget that an event was published, if its notification really is not there any more.
--
-- KEYS  1 notification stream   2 index shard of the event_id   3 of the note that it is sent again
-- ARGV  1 14 bytes of event_id digest   2 16 bytes of content digest   3 14 bytes of that note's digest
-- Answer { 1 forgotten | 0 not remembered with this content | -1 the notification is there,
--          the notification's ID or an empty string }
local known = redis.call('HGET', KEYS[2], ARGV[1])
if not known or string.sub(known, 1, 16) ~= ARGV[2] then return {0, ''} end
local stamp = tonumber(string.sub(known, 17))
if not stamp then
  return redis.error_reply('ERR the index is damaged: look at ' .. KEYS[2] .. ', which holds '
    .. 'what no sidecar wrote, and HDEL that field')
end
local entry = string.format('%.0f-%.0f', math.floor(stamp / 1000), stamp % 1000)
if #redis.call('XRANGE', KEYS[1], entry, entry) > 0 then return {-1, entry} end
-- Its entry, and duplicates, count as finished all the same, or a new owner would deliver them again.
local time = redis.call('TIME')
redis.call('HSET', KEYS[3], ARGV[3], ARGV[2] .. string.format('%.0f', time[1] * 1000000 + time[2]))
redis.call('HDEL', KEYS[2], ARGV[1])
return {1, entry}
