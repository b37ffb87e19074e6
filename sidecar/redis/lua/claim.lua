-- Take or keep a claim that runs out by itself, also where no memory is left (decision 0021).
--
-- KEYS  1 claim
-- ARGV  1 token   2 its life in milliseconds
-- Answer  1 it is ours   0 another's
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
