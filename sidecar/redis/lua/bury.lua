-- Write dead letters in order, under the fence, each once an entry, never for a published event:
-- but for one that a repair sent again, for its notification is lost. The index forgets that.
--
-- KEYS  1 fence   2 halt   3 low   4 dead-letter stream   5 the record of halts
--       6 the notes of what is sent again   7 trimmed   8 notification stream
--       9 rows of dead letters, by tenant   10 paused
--       then two for each letter: index shard of the event_id, index shard of the origin
-- ARGV  1 token   2 dead letters in a row that pause or halt, 0 = never   3 the time, RFC 3339
--       4 the control stream   5 records of halts to keep
--       6 how often tenants were paused or resumed, as far as the worker knows
--       7 for so many more tenants rows are counted
--       then for each letter:
--         lowest entry unfinished after it
--         14 bytes of event_id digest and 16 of content digest, or empty
--         14 bytes of origin digest and 16 that mark the entry
--         1: it begins a new row of dead letters
--         1: it is one more in a row
--         why the tenant would be paused, or the stream halted
--         whose it is said to be, or empty
--         1: it begins a new row of that tenant
--         how many fields and values follow, and these
-- Answer { state, result, ... }
--   state   1 done   0 the fence is another's   -1 halted   -2 other tenants are paused by now
--   result  2 written, and the stream is halted now: it is the last   1 written
--           3 written, and its tenant is paused now   0 not written: its tenant is paused since
--           -3 this entry has its letter   -4 the event is published
--   Fewer results: what comes next could not be written. An error, if for the first.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0} end
local halt = redis.call('HMGET', KEYS[2], 'reason', 'tenants', 'dead_in_a_row')
if halt[1] then return {-1} end
if (halt[2] or '') ~= ARGV[6] then return {-2} end

-- include sent_again
-- include change

local time = redis.call('TIME')
local stamp = string.format('%.0f', time[1] * 1000000 + time[2])

-- Write the letter whose arguments begin at `arg`; return its result, or an error.
local function written(event_shard, origin_shard, arg)
  local id, content = string.sub(ARGV[arg + 1], 1, 14), string.sub(ARGV[arg + 1], 15)
  local known, is_lost = id ~= '' and redis.call('HGET', event_shard, id), false
  if known and string.sub(known, 1, 16) == content then
    is_lost = is_sent_again(id, content, known, KEYS[6], KEYS[7], KEYS[8])
    if not is_lost then return -4 end
  end
  -- The mark of another entry, which had this ID before the stream lost it, says nothing of this one.
  -- Dashes may be of any entry: an older release wrote no other mark.
  local origin, mark = string.sub(ARGV[arg + 2], 1, 14), string.sub(ARGV[arg + 2], 15)
  local marked, any = redis.call('HGET', origin_shard, origin), string.rep('-', 16)
  marked = marked and string.sub(marked, 1, 16)
  if marked and (marked == mark or marked == any or mark == any) then return -3 end
  -- The mark first: without memory, or the right to write it, nothing was done. Should the letter
  -- fail, its origin is not marked, or its event would be gone.
  local noted = redis.pcall('HSET', origin_shard, origin, mark .. stamp)
  if type(noted) == 'table' and noted.err then return noted end
  local first = arg + 9
  local added = redis.pcall('XADD', KEYS[4], '*', unpack(ARGV, first, first + ARGV[arg + 8] - 1))
  if type(added) == 'table' and added.err then
    redis.call('HDEL', origin_shard, origin)
    return added
  end
  if is_lost then redis.call('HDEL', event_shard, id) end
  return 1
end

-- What no sidecar wrote there keeps no stream from being halted: the row is counted anew.
local function counted(noted)
  return noted and string.match(noted, '^%d+$') and tonumber(noted) or 0
end

-- The row of each tenant that this run changes, and for how many more there is room.
local rows, room = {}, tonumber(ARGV[7])

-- Count one more dead letter of a tenant; return its row. Nil where none is to blame: the letter
-- names no tenant, or so many have rows that somebody makes tenants up.
local function blamed(tenant)
  if tenant == '' then return nil end
  if not rows[tenant] then
    local noted = redis.call('HGET', KEYS[9], tenant)
    if not noted and room <= 0 then return nil end
    if not noted then room = room - 1 end
    rows[tenant] = counted(noted)
  end
  rows[tenant] = rows[tenant] + 1
  return rows[tenant]
end

-- The stream's own row counts what no tenant is blamed for, and each tenant once.
local limit, in_a_row, why = tonumber(ARGV[2]), counted(halt[3]), nil
local paused, order, skipped = {}, {}, false
local answer, low, arg = {1}, nil, 8
for key = 11, #KEYS, 2 do
  local tenant = ARGV[arg + 6]
  local result = paused[tenant] and 0 or written(KEYS[key], KEYS[key + 1], arg)
  if type(result) == 'table' then
    if not low then return result end
    break
  end
  -- Of those behind one that is not written the lowest unfinished is that, or what was noted before.
  skipped = skipped or result == 0
  if not skipped then low = ARGV[arg] end
  if ARGV[arg + 3] == '1' then in_a_row = 0 end
  if result ~= 0 and ARGV[arg + 7] == '1' and (rows[tenant] or redis.call('HEXISTS', KEYS[9], tenant) == 1) then
    rows[tenant] = 0
  end
  if result == 1 and ARGV[arg + 4] == '1' and limit > 0 then
    local row = blamed(tenant)
    if not row or row == 1 then in_a_row = in_a_row + 1 end
    if row and row >= limit then
      result, paused[tenant], order[#order + 1] = 3, ARGV[arg + 5], tenant
    elseif in_a_row >= limit then result, why = 2, ARGV[arg + 5] end
  end
  answer[#answer + 1] = result
  if why then break end
  arg = arg + 9 + ARGV[arg + 8]
end

-- A deletion first, so that it may be noted where no memory is left (decision 0021). None before:
-- what follows one is not refused there, and no new letter may be written so.
redis.call('HDEL', KEYS[2], in_a_row == 0 and 'dead_in_a_row' or '')
if in_a_row > 0 and in_a_row ~= tonumber(halt[3] or '') then
  redis.call('HSET', KEYS[2], 'dead_in_a_row', string.format('%.0f', in_a_row))
end
for tenant, row in pairs(rows) do
  if row == 0 then redis.call('HDEL', KEYS[9], tenant)
  else redis.call('HSET', KEYS[9], tenant, string.format('%.0f', row)) end
end
for _, tenant in ipairs(order) do
  redis.call('HSET', KEYS[10], tenant, string.format(
    '{"reason":"%s","since":"%s","by":"sidecar"}', paused[tenant], ARGV[3]))
  count_change(KEYS[2])
  redis.pcall('XADD', KEYS[5], 'MAXLEN', '~', ARGV[5], '*', 'what', 'paused', 'stream', ARGV[4],
    'tenant', tenant, 'reason', paused[tenant], 'by', 'sidecar')
end
if why then
  redis.call('HSET', KEYS[2], 'reason', why, 'since', ARGV[3], 'by', 'sidecar')
  -- A record that cannot be written must not keep the stream from being halted.
  redis.pcall('XADD', KEYS[5], 'MAXLEN', '~', ARGV[5], '*', 'what', 'halted', 'stream', ARGV[4],
    'reason', why, 'by', 'sidecar')
end
-- Last: where it is refused the letters are written all the same, and count.
redis.call('SET', KEYS[3], low)
return answer
