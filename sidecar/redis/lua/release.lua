-- Give the lease back, so that the next worker need not wait for it to run out.
--
-- KEYS  1 fence   2 lease   3 halt
-- ARGV  1 token   2 1: the worker cannot serve now; 0: it ends in good order
--       3 the entry that it ran alone, which it survived, or empty
-- Answer  1 given back   0 it was another's
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
if ARGV[2] == '0' then
  redis.call('HDEL', KEYS[3], 'unclean', 'alone', 'alone_deaths', 'yielded')
  return 1
end
-- Its own tenure is taken off the counts of crashes; those of others stay.
if redis.call('HSETNX', KEYS[3], 'yielded', 1) == 0 then return 1 end
if tonumber(redis.call('HGET', KEYS[3], 'unclean') or 0) > 0 then
  redis.call('HINCRBY', KEYS[3], 'unclean', -1)
end
if ARGV[3] ~= '' and redis.call('HGET', KEYS[3], 'alone') == ARGV[3] then
  redis.call('HINCRBY', KEYS[3], 'alone_deaths', -1)
end
return 1
