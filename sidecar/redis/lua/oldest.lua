-- Find the ID of the n-th oldest entry of a stream, or of one before it where those are huge; only
-- reads.
--
-- KEYS  1 stream
-- ARGV  1 n
-- Answer the ID of the n-th entry, or of the last when there are fewer; nothing of an empty stream
local ENOUGH = 8 * 1024 * 1024
local n, count, step, bytes, last, from = tonumber(ARGV[1]), 0, 1, 0, false, '-'
while count < n and bytes < ENOUGH do
  local page = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', math.min(step, n - count))
  for _, entry in ipairs(page) do
    for _, part in ipairs(entry[2]) do bytes = bytes + #part end
  end
  count, last = count + #page, #page > 0 and page[#page][1] or last
  if #page < math.min(step, n - count + #page) then break end
  from = '(' .. last
  step = math.min(2 * step, 32)
end
return last
