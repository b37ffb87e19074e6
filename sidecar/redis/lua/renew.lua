-- Keep the lease, and see whether the stream is halted.
--
-- KEYS  1 fence   2 lease   3 halt
-- ARGV  1 token   2 lease in milliseconds
-- Answer { 1 still the owner | 0 another's, why it is halted or an empty string,
--          1 no memory is left for what is new }

-- include bound_halt

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0, '', 0} end
local kept, full = redis.pcall('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]), 0
if kept.err and not string.find(kept.err, "'maxmemory'", 1, true) then return kept end
if kept.err then  -- a lease is no reason to have more memory: deleted first, it may be set
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
  full = 1
end
return {1, bound_halt(KEYS[3]), full}
