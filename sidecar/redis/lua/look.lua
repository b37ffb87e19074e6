-- Look at a stream, for whether it still has what it is known to have had. Writes nothing.
--
-- KEYS  1 stream   2 the incarnations of a notification stream, or none
-- ARGV  1 the highest entry that it is known to have had, or 0-0
-- Answer { the server's time in milliseconds, the highest ID that the stream ever gave,
--          its newest entry, its oldest, the highest that was deleted by hand (empty before Redis
--          7.0), 1 it has the known one, the highest entry below that,
--          what was published last as noted, its incarnations as noted }
--   IDs are empty where there is no such entry. No entry's content is sent: it may be huge.
local time = redis.call('TIME')
local answer = {time[1] .. string.sub(string.format('%06d', time[2]), 1, 3), '0-0', '', '', '', 0,
  '', '', ''}
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    local name, value = info[i], info[i + 1]
    if name == 'last-generated-id' then answer[2] = value end
    if name == 'last-entry' and value then answer[3] = value[1] end
    if name == 'first-entry' and value then answer[4] = value[1] end
    if name == 'max-deleted-entry-id' then answer[5] = value end
  end
  if ARGV[1] ~= '0-0' then
    answer[6] = #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
    local below = redis.call('XREVRANGE', KEYS[1], '(' .. ARGV[1], '-', 'COUNT', 1)
    if below[1] then answer[7] = below[1][1] end
  end
end
if KEYS[2] then
  local noted = redis.pcall('HMGET', KEYS[2], 'last', 'list')
  if noted.err and not string.find(noted.err, 'WRONGTYPE', 1, true) then return noted end
  if not noted.err then answer[8], answer[9] = noted[1] or '', noted[2] or '' end
end
return answer
