-- Become the active worker of a control stream, unless another's lease runs.
--
-- KEYS  1 fence   2 lease   3 halt
-- ARGV  1 token   2 lease in milliseconds
-- Answer { 1 owner | 0 another owns it, its lease's remaining milliseconds,
--          owners in a row that went without settling or giving it back, the other's token }

-- include bound_halt

local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then return {0, redis.call('PTTL', KEYS[2]), 0, owner} end
-- Deletions come first, so that this may run where no memory is left (decision 0021).
redis.call('DEL', KEYS[2])
bound_halt(KEYS[3])
local yielded = redis.call('HDEL', KEYS[3], 'yielded') == 1  -- then nobody's tenure is counted
if yielded or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1])
  redis.call('HINCRBY', KEYS[3], 'unclean', 1)
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {1, 0, tonumber(redis.call('HGET', KEYS[3], 'unclean') or 1) - 1, ''}
