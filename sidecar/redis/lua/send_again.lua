-- Note that an event is sent again, if its notification really is not there any more. Its entry, and
-- duplicates, count as finished all the same, or a new owner would deliver them again. What is noted
-- here has publish.lua forget the event, once it comes.
--
-- KEYS  1 notification stream   2 index shard of the event_id   3 the notes of what is sent again
--       4 trimmed
-- ARGV  1 14 bytes of event_id digest   2 16 bytes of content digest
-- Answer { 1 noted | 0 not remembered with this content | -1 the notification is there |
--          -2 it lies in what was trimmed: publish.lua does not take it for lost,
--          the notification's ID or an empty string }
if #ARGV[1] ~= 14 or #ARGV[2] ~= 16 then
  return redis.error_reply('ERR the digests must have 14 and 16 bytes')
end
local known = redis.call('HGET', KEYS[2], ARGV[1])
if not known or string.sub(known, 1, 16) ~= ARGV[2] then return {0, ''} end
local stamp = string.match(known, '^%d+$', 17)
if not stamp then
  return redis.error_reply('ERR the index is damaged: look at ' .. KEYS[2] .. ', which holds '
    .. 'what no sidecar wrote, and HDEL that field')
end
local entry = string.format('%.0f-%.0f', math.floor(stamp / 1000), stamp % 1000)
if #redis.call('XRANGE', KEYS[1], entry, entry) > 0 then return {-1, entry} end
local gone = redis.pcall('HGET', KEYS[4], KEYS[1])
local ms, seq = string.match(type(gone) == 'string' and gone or '', '^(%d+)-(%d+)$')
if ms and ms * 1000 + math.min(tonumber(seq), 999) >= tonumber(stamp) then return {-2, entry} end
local time = redis.call('TIME')
redis.call('HSET', KEYS[3], ARGV[1],
  ARGV[2] .. string.format('%.0f ', time[1] * 1000000 + time[2]) .. stamp)
return {1, entry}
