-- Trim a stream below what its consumer groups need, or only return what would go. Both in one: so
-- no group is trimmed over that somebody makes, or sets back, at the same time, and no stream is
-- trimmed that came in place of the one that was looked at: the group is not there.
--
-- KEYS  1 stream
-- ARGV  1 the lowest entry that stays in any case   2 so many go at most   3 1 trim, 0 only look
--       4 the group that must be there; empty: none need
-- Answer { how many go, the highest of them; empty without any, 1 there may be more,
--          how many of all that the stream ever had are gone then; empty before Redis 7.0 }
local function less(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if a_ms == b_ms then a_ms, b_ms = a_seq, b_seq end
  return #a_ms < #b_ms or (#a_ms == #b_ms and a_ms < b_ms)
end
local HIGHEST = '18446744073709551615-18446744073709551615'
local function first_after(id)
  if id == HIGHEST then return nil end
  local found = redis.call('XRANGE', KEYS[1], '(' .. id, '+', 'COUNT', 1)
  return found[1] and found[1][1]
end

local function gone(count)
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'entries-added' then
      return string.format('%.0f', info[i + 1] - redis.call('XLEN', KEYS[1]) + count)
    end
  end
  return ''
end

local keep, missing = ARGV[1], ARGV[4] ~= ''
local function needs(id) if id and less(id, keep) then keep = id end end
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, '', 0, ''} end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local name, delivered
  for i = 1, #group, 2 do
    if group[i] == 'name' then name = group[i + 1] end
    if group[i] == 'last-delivered-id' then delivered = group[i + 1] end
  end
  if name == ARGV[4] then missing = false end
  needs(redis.call('XPENDING', KEYS[1], name)[2])
  needs(first_after(delivered))
end
if missing or keep == '0-0' then return {0, '', 0, ''} end

-- Of entries that may be huge only so many are held at once, or go in one round, as have few bytes.
local ENOUGH = 8 * 1024 * 1024
local most, count, step, bytes, last, from = tonumber(ARGV[2]), 0, 1, 0, nil, '-'
while count < most and bytes < ENOUGH do
  local page = redis.call('XRANGE', KEYS[1], from, '(' .. keep, 'COUNT', math.min(step, most - count))
  if #page == 0 then break end
  for _, entry in ipairs(page) do
    for _, part in ipairs(entry[2]) do bytes = bytes + #part end
  end
  count, last = count + #page, page[#page][1]
  from = '(' .. last
  step = math.min(2 * step, 32)
end
if not last then return {0, '', 0, ''} end
local all_gone = gone(count)
if ARGV[3] == '1' then
  local stays = first_after(last)
  if stays then
    redis.call('XTRIM', KEYS[1], 'MINID', '=', stays)
  else
    redis.call('XTRIM', KEYS[1], 'MAXLEN', '=', 0)
  end
end
return {count, last, (count == most or bytes >= ENOUGH) and 1 or 0, all_gone}
