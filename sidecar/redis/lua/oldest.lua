-- Find the ID of the n-th oldest entry of a stream; only reads.
--
-- KEYS  1 stream
-- ARGV  1 n
-- Answer the ID of the n-th entry, or of the last when there are fewer; nothing of an empty stream
local found = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[1])
return #found > 0 and found[#found][1]
