-- Give the lease back, so that the next worker need not wait for it to run out.
--
-- KEYS  1 fence   2 lease   3 halt
-- ARGV  1 token
-- Answer  1 given back   0 it was another's
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[3], 'unclean', 'alone', 'alone_deaths')
redis.call('DEL', KEYS[2])
return 1
