-- Forget what the deduplication index has remembered for longer than its window.
--
-- KEYS  1 how far pruning is   then the shards whose turn has come, and what else is kept like them
-- ARGV  1 how far pruning is with these   2 what ended before is forgotten, in microseconds
-- Answer  how many are forgotten
redis.call('DEL', KEYS[1])  -- so that this may run where no memory is left (decision 0021)
redis.call('SET', KEYS[1], ARGV[1])
local before = tonumber(ARGV[2])

-- What remains is written anew where most goes: a hash that was once too large to be packed is
-- packed again only so.
local function keep(shard, remembered)
  redis.call('DEL', shard)
  for i = 1, #remembered, 2 do redis.call('HSET', shard, remembered[i], remembered[i + 1]) end
end

local forgotten = 0
for key = 2, #KEYS do
  local found = redis.pcall('HGETALL', KEYS[key])
  if not found.err then  -- what is no hash is in the way of nothing here
    local old, kept = {}, {}
    for i = 1, #found, 2 do
      local stamp = tonumber(string.match(found[i + 1], '^(%d+) ?%d*$', 17))
      if stamp and stamp < before then
        old[#old + 1] = found[i]
      else
        kept[#kept + 1], kept[#kept + 2] = found[i], found[i + 1]
      end
    end
    if 4 * #old > #found then  -- two items a field
      keep(KEYS[key], kept)
    else
      for _, field in ipairs(old) do redis.call('HDEL', KEYS[key], field) end
      redis.call('PERSIST', KEYS[key])  -- an older release let it expire: no shard has a window left
    end
    forgotten = forgotten + #old
  end
end
return forgotten
