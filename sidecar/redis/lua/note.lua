-- Note a field of a hash, also where no memory is left: what it replaces goes first (decision 0021).
--
-- KEYS  1 hash
-- ARGV  1 field   2 value
-- Answer  1
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
