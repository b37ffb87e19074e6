-- Publish a run of events in order, under the fence, each event_id once.
--
-- KEYS  1 fence   2 halt   3 low   4 notification stream
--       then one for each event: its shard of the deduplication index
-- ARGV  1 token   2 lowest entry unfinished after this run   3 highest control_version known
--       4 seconds the index remembers
--       5 1: with this run a row of dead letters ends
--       then four for each event:
--         14 bytes of event_id digest and 16 of content digest
--         JSON up to the value of control_version; empty: known to be published, only look
--         origin
--         traceparent, or empty
-- Answer { state, highest control_version, result, ... }
--   state   1 done   0 the fence is another's   -1 halted
--   result  n published as n   -n duplicate of n   0 published before with other content
--           1 was said to be known, but the index has forgotten it; the rest is left undone
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0, 0} end
if redis.call('HEXISTS', KEYS[2], 'reason') == 1 then return {-1, 0} end
redis.call('SET', KEYS[1], ARGV[1])  -- so that WAIT has something to wait for, whatever comes

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local clock = math.max(now - 1, tonumber(ARGV[3]))
if redis.call('EXISTS', KEYS[4]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[4])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local ms, seq = string.match(info[i + 1], '^(%d+)-(%d+)$')
      clock = math.max(clock, ms * 1000 + math.min(tonumber(seq), 999))
    end
  end
end

-- Drop from a shard what is older than the window. Seldom called: a shard that is not written
-- any more expires as a whole.
local function prune(shard)
  local remembered = redis.call('HGETALL', shard)
  for i = 1, #remembered, 2 do
    local stamp = tonumber(string.sub(remembered[i + 1], 17))
    if stamp and now - stamp > ARGV[4] * 1000000 then
      redis.call('HDEL', shard, remembered[i])
    end
  end
end

local call, sub, format = redis.call, string.sub, string.format
local answer, published, complete = {1, 0}, false, true
local arg = 6
for key = 5, #KEYS do
  local shard, id, content = KEYS[key], sub(ARGV[arg], 1, 14), sub(ARGV[arg], 15)
  local json, origin, traceparent = ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
  local stamp = format('%.0f', clock + 1)
  local result = 1
  if json ~= '' and call('HSETNX', shard, id, content .. stamp) == 1 then
    clock = clock + 1
    local entry = format('%.0f-%.0f', math.floor(clock / 1000), clock % 1000)
    local added
    if traceparent == '' then
      added = redis.pcall('XADD', KEYS[4], entry, 'event', json .. stamp .. '}', 'origin', origin)
    else
      added = redis.pcall('XADD', KEYS[4], entry, 'event', json .. stamp .. '}', 'origin', origin,
        'traceparent', traceparent)
    end
    if type(added) == 'table' and added.err then
      call('HDEL', shard, id)  -- not published, so not remembered
      return added
    end
    call('EXPIRE', shard, ARGV[4])
    if clock % 256 == 0 then prune(shard) end
    result, published = clock, true
  else
    local known = call('HGET', shard, id)
    if known then
      local first = tonumber(sub(known, 17))
      if not first then
        return redis.error_reply('ERR the index is damaged: look at ' .. shard .. ', which holds '
          .. 'what no sidecar wrote, and HDEL that field')
      end
      result = sub(known, 1, 16) == content and -first or 0
    end
  end
  answer[#answer + 1] = result
  arg = arg + 4
  if result == 0 or result == 1 then complete = false end
  if result == 1 then break end
end

answer[2] = clock
if complete then redis.call('SET', KEYS[3], ARGV[2]) end
if published and ARGV[5] == '1' then redis.call('HDEL', KEYS[2], 'dead_in_a_row') end
return answer
