-- Let a halted control stream go on. What counts crashes in the same hash stays.
--
-- KEYS  1 halt
-- ARGV  1 why   2 the time, RFC 3339   3 who
-- Answer { 1 was halted | 0 was not, reason, since, by }
local halt = redis.call('HMGET', KEYS[1], 'reason', 'since', 'by')
if not halt[1] then return {0, '', '', ''} end
redis.call('HDEL', KEYS[1], 'reason', 'since', 'by', 'dead_in_a_row')
redis.call('HSET', KEYS[1], 'resumed_why', ARGV[1], 'resumed_at', ARGV[2], 'resumed_by', ARGV[3])
return {1, halt[1], halt[2] or '', halt[3] or ''}
