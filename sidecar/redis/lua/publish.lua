-- Publish a run of events in order, under the fence, each event_id once.
--
-- KEYS  1 fence   2 halt   3 low   4 notification stream
--       5 its incarnations   6 trimmed   7 archived   8 readers of an older release
--       9 the notes of what is sent again   10 rows of dead letters, by tenant
--       then one for each event: its shard of the deduplication index
-- ARGV  1 token   2 lowest entry unfinished after this run   3 highest control_version known; of a
--       signed run the one below that of its first event
--       4 a row of dead letters ends when the n-th event or a later one is published, no duplicate
--       5 how often tenants were paused or resumed, as far as the worker knows
--       6 how many arguments an event has: 5 in a signed run, else 4
--       then for each event:
--         14 bytes of event_id digest and 16 of content digest
--         JSON up to the value of control_version; empty: known to be published, only look
--         origin
--         traceparent, or empty
--         signature. It holds for one control_version: that after ARGV 3 for the first
--         event of the run, the next for the second, whatever becomes of those before
--       then pairs: a tenant's row ends when the n-th event is published, no duplicate; the tenant
-- Answer { state, highest control_version, the stream's last ID before this run, the server's time,
--          result, ... }
--   state   1 done   0 the fence is another's   -1 halted   -2 other tenants are paused by now
--           -3 nothing is done: the control_versions that are signed for are below the highest
--   result  n published as n   -n duplicate of n   0 published before with other content
--           1 the index has forgotten it, and it was said to be known, or it is sent again: it
--             must come in full, and the rest is left undone
--   Fewer results: there is no memory for what comes next. An error, if for the first.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0, 0, ''} end
local halt = redis.call('HMGET', KEYS[2], 'reason', 'tenants')
if halt[1] then return {-1, 0, ''} end
if (halt[2] or '') ~= ARGV[5] then return {-2, 0, ''} end
local kept = redis.pcall('SET', KEYS[1], ARGV[1])  -- so that WAIT has something to wait for
local full = kept.err ~= nil
if full and not string.find(kept.err, "'maxmemory'", 1, true) then return kept end
if full then  -- what is published already can be told (decision 0021)
  redis.call('HDEL', KEYS[2], '')
  redis.call('SET', KEYS[1], ARGV[1])
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local clock = math.max(now - 1, tonumber(ARGV[3]))
local last_id, last = '0-0', 0
if redis.call('EXISTS', KEYS[4]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[4])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      last_id = info[i + 1]
      local ms, seq = string.match(last_id, '^(%d+)-(%d+)$')
      last = ms * 1000 + math.min(tonumber(seq), 999)
      clock = math.max(clock, last)
    end
  end
end

if last >= 9007199254740991 then  -- 2^53 - 1
  return redis.error_reply('ERR no control_version can follow ' .. last_id .. ', the last ID of '
    .. KEYS[4])
end

-- include sent_again

-- What the stream's incarnation is noted to be, and on which server this is. `goes_on` when it is
-- still the one that was published into last: on the same server, with nothing lost of what was
-- noted. A server that takes over, or starts again, has another replication ID.
local function incarnation()
  local server = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or ''
  local noted = unless_damaged('HMGET', KEYS[5], 'server', 'last', 'list')
  if not noted then
    redis.call('DEL', KEYS[5])
    noted = {}
  end
  local known = string.match(noted[2] or '', '^%d+%-%d+$')
  return {
    server = server, noted = noted, known = known, list = string.match(noted[3] or '', '^.*\n') or '',
    goes_on = known and noted[1] == server
      and (known == last_id or #redis.call('XRANGE', KEYS[4], known, known) > 0),
  }
end

-- The highest control_version that someone is known to have been given, whatever the stream has
-- lost. Of a reader it is believed within a day of this clock: what it says is not of the worker's
-- own writing, and would stay for ever.
local function given(known)
  local ms, seq = string.match(known or '0-0', '^(%d+)-(%d+)$')
  local highest = ms * 1000 + math.min(tonumber(seq), 999)
  local function has_passed(said)
    local passed = tonumber(type(said) == 'string' and string.match(said, '^%d+') or 0)
    if passed <= now + 86400000000 then highest = math.max(highest, passed) end
  end
  local readers = unless_damaged('HGETALL', KEYS[8]) or {}
  for i = 2, #readers, 2 do has_passed(readers[i]) end
  -- The keys of the others lie in this slot, too. No more of them than a page: nobody waits.
  local prefix = string.sub(KEYS[8], 1, -#'readers' - 1)
  local page = unless_damaged('SSCAN', prefix .. 'registered', 0, 'COUNT', 1000) or {0, {}}
  for _, name in ipairs(page[2]) do
    has_passed(unless_damaged('GETRANGE', prefix .. 'reader:' .. name, 0, 16))
  end
  return highest
end

-- Begin a new incarnation with the control_version `first`.
local function incarnate(found, first)
  local list = found.list
  if last == 0 then  -- made anew: what was noted of the stream before is not true of this one
    list = ''
    unless_damaged('HDEL', KEYS[7], KEYS[4])
    -- But what was trimmed is as gone as before, unless it is said of what is yet to come.
    local gone = trimmed_to(KEYS[6], KEYS[4])
    if gone == 0 or gone >= tonumber(first) then unless_damaged('HDEL', KEYS[6], KEYS[4]) end
  end
  local id = string.sub(redis.sha1hex(ARGV[1] .. first), 1, 16)
  list = list .. string.format('%s %.0f %s\n', id, last, first)
  if select(2, string.gsub(list, '\n', '')) > 64 then  -- the two oldest become one
    list = string.gsub(list, '^%S+ (%S+) %S+\n(%S+) %S+ (%S+)\n', '%2 %1 %3\n', 1)
  end
  redis.call('HSET', KEYS[5], 'server', found.server, 'last', last_id, 'list', list)
end

-- Note again what was noted before an incarnation was begun that nothing is published into: else
-- the next run would take it for one that continues, and publish below its first control_version.
local function undo(found)
  for i, field in ipairs({'server', 'last', 'list'}) do
    if found.noted[i] then redis.call('HSET', KEYS[5], field, found.noted[i])
    else redis.call('HDEL', KEYS[5], field) end
  end
end

-- Forget what else of this run is sent again: a worker reads everything again for it, once.
local function forget_with_it(first, arg, each)
  for key = first, #KEYS do
    local id, content = string.sub(ARGV[arg], 1, 14), string.sub(ARGV[arg], 15)
    local known = redis.call('HGET', KEYS[key], id)
    if known and is_sent_again(id, content, known, KEYS[9], KEYS[6], KEYS[4]) then
      redis.call('HDEL', KEYS[key], id)
    end
    arg = arg + each
  end
end

local function add(fields, name, value)
  fields[#fields + 1], fields[#fields + 2] = name, value
end

local call, sub, format = redis.call, string.sub, string.format
local answer, published, row_ends, complete = {1, 0, last_id, now}, false, false, true
local first_to_end, floor = 10 + tonumber(ARGV[4]), tonumber(ARGV[3])
local arg, each, found = 7, tonumber(ARGV[6]), nil
for key = 11, #KEYS do
  local shard, id, content = KEYS[key], sub(ARGV[arg], 1, 14), sub(ARGV[arg], 15)
  local json, origin, traceparent = ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
  local signature = each == 5 and ARGV[arg + 4] or ''
  local result = 1
  if json ~= '' and not full and not found then
    found = incarnation()
    if not found.goes_on then clock = math.max(clock, given(found.known)) end
    if signature ~= '' and clock > floor then return {-3, clock, last_id, now} end
  end
  if signature ~= '' then clock = floor + key - 11 end
  local stamp = format('%.0f', clock + 1)
  if json ~= '' and found and not found.goes_on and call('HEXISTS', shard, id) == 0 then
    incarnate(found, stamp)  -- it may be refused: so before the event is remembered
    found.goes_on, found.begun = true, true
  end
  if json ~= '' and not full and call('HSETNX', shard, id, content .. stamp) == 1 then
    clock = clock + 1
    local entry = sub(stamp, 1, -4) .. '-' .. tonumber(sub(stamp, -3))  -- as numbers it takes longer
    local added
    if traceparent == '' and signature == '' then
      added = redis.pcall('XADD', KEYS[4], entry, 'event', json .. stamp .. '}', 'origin', origin)
    else
      local fields = {'event', json .. stamp .. '}', 'origin', origin}
      if traceparent ~= '' then add(fields, 'traceparent', traceparent) end
      if signature ~= '' then add(fields, 'signature', signature) end
      added = redis.pcall('XADD', KEYS[4], entry, unpack(fields))
    end
    if type(added) == 'table' and added.err then
      call('HDEL', shard, id)  -- not published, so not remembered
      if published then call('HSET', KEYS[5], 'last', last_id)
      elseif found.begun then undo(found) end
      return added
    end
    result, published, last_id = clock, true, entry
    row_ends = row_ends or key >= first_to_end
  else
    local known = call('HGET', shard, id)
    local forgets = known and is_sent_again(id, content, known, KEYS[9], KEYS[6], KEYS[4])
    if forgets then call('HDEL', shard, id) end
    if not known and json ~= '' then  -- there is no memory to publish it
      complete = false
      break
    end
    if known and not forgets then
      local first = tonumber(sub(known, 17))
      if not first then
        return redis.error_reply('ERR the index is damaged: look at ' .. shard .. ', which holds '
          .. 'what no sidecar wrote, and HDEL that field')
      end
      result = sub(known, 1, 16) == content and -first or 0
    end
  end
  answer[#answer + 1] = result
  arg = arg + each
  if result == 0 or result == 1 then complete = false end
  if result == 1 then
    forget_with_it(key + 1, arg, each)
    break
  end
end

if full and #answer == 4 and #KEYS > 10 then return kept end
answer[2] = clock
if published then call('HSET', KEYS[5], 'last', last_id) end
if complete then redis.call('SET', KEYS[3], ARGV[2]) end
if row_ends then redis.call('HDEL', KEYS[2], 'dead_in_a_row') end
for i = 7 + each * (#KEYS - 10), #ARGV, 2 do
  if (answer[4 + ARGV[i]] or 0) > 1 then redis.call('HDEL', KEYS[10], ARGV[i + 1]) end
end
return answer
