-- Count how many entries may be read at once, for the memory that they take; only reads.
--
-- KEYS  1 stream
-- ARGV  1 the ID after which they lie   2 entries at most   3 bytes at most
--       4 group   5 consumer; without these two, what lies in the stream counts, else what is pending
-- Answer  how many fit; 1 also when that one is too large by itself; 0 when there is none
local most, bytes_left = tonumber(ARGV[2]), tonumber(ARGV[3])
local FIELD_OVERHEAD = 64
local LAST_ID = '18446744073709551615-18446744073709551615'

local function size(entry)
  local bytes = 0
  for _, part in ipairs(entry[2]) do bytes = bytes + #part + FIELD_OVERHEAD end
  return bytes
end

local function next_entries(after, count)
  if after == LAST_ID then return {} end
  if not ARGV[4] then return redis.pcall('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', count) end
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[4], '(' .. after, '+', count, ARGV[5])
  if pending.err then return pending end
  local found = {}
  for i, row in ipairs(pending) do
    found[i] = redis.call('XRANGE', KEYS[1], row[1], row[1])[1] or {row[1], {}}
  end
  return found
end

-- Few at first: were they giants, the server would have to hold them all.
local count, after, step = 0, ARGV[1], 1
while count < most do
  local found = next_entries(after, math.min(step, most - count))
  if found.err then return found end
  for _, entry in ipairs(found) do
    bytes_left = bytes_left - size(entry)
    if bytes_left < 0 then return math.max(count, 1) end
    count, after = count + 1, entry[1]
  end
  if #found < step then return count end
  step = math.min(2 * step, 32)
end
return count
