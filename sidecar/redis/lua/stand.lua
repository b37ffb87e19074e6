-- Note where a control stream stands, under the fence.
--
-- KEYS  1 fence   2 low   3 anchors
-- ARGV  1 token   2 the lowest entry that may be unfinished, or empty to leave it
--       3 the control stream   4 its anchors, or empty to leave them
-- Answer  1 noted   0 the fence is another's
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
-- Deletions come first, so that this may run where no memory is left (decision 0021).
redis.call('HDEL', KEYS[3], '')
if ARGV[2] ~= '' then redis.call('SET', KEYS[2], ARGV[2]) end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[3], ARGV[3], ARGV[4]) end
return 1
