-- Trim a stream below what its consumer groups need, or only tell what would go. Both in one: so
-- no group is trimmed over that somebody makes, or sets back, at the same time.
--
-- KEYS  1 stream
-- ARGV  1 the lowest entry that stays in any case   2 so many go at most   3 1 trim, 0 only tell
-- Answer { how many go, the highest of them; empty without any }
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

local keep = ARGV[1]
local function needs(id) if id and less(id, keep) then keep = id end end
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, ''} end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local name, delivered
  for i = 1, #group, 2 do
    if group[i] == 'name' then name = group[i + 1] end
    if group[i] == 'last-delivered-id' then delivered = group[i + 1] end
  end
  needs(redis.call('XPENDING', KEYS[1], name)[2])
  needs(first_after(delivered))
end
if keep == '0-0' then return {0, ''} end

local go = redis.call('XRANGE', KEYS[1], '-', '(' .. keep, 'COUNT', ARGV[2])
if #go == 0 then return {0, ''} end
local last = go[#go][1]
if ARGV[3] == '1' then
  local stays = first_after(last)
  if stays then
    redis.call('XTRIM', KEYS[1], 'MINID', '=', stays)
  else
    redis.call('XTRIM', KEYS[1], 'MAXLEN', '=', 0)
  end
end
return {#go, last}
