-- Keep the lease, and see whether the stream is halted.
--
-- KEYS  1 fence   2 lease   3 halt
-- ARGV  1 token   2 lease in milliseconds
-- Answer { 1 still the owner | 0 another's, why it is halted or an empty string }
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0, ''} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {1, redis.call('HGET', KEYS[3], 'reason') or ''}
