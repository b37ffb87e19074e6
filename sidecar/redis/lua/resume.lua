-- Let a halted control stream continue. What counts crashes in the same hash stays.
--
-- KEYS  1 halt   2 the record of halts
-- ARGV  1 why   2 the time, RFC 3339   3 who   4 the control stream   5 records to keep
-- Answer { 1 was halted | 0 was not, reason, since, by, why it is not on record }
local halt = redis.call('HMGET', KEYS[1], 'reason', 'since', 'by')
if not halt[1] then return {0, '', '', '', ''} end
redis.call('HDEL', KEYS[1], 'reason', 'since', 'by', 'dead_in_a_row')
redis.call('HSET', KEYS[1], 'resumed_why', ARGV[1], 'resumed_at', ARGV[2], 'resumed_by', ARGV[3])
-- A record that cannot be written must not keep anybody from continuing.
local done = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'what', 'resumed',
  'stream', ARGV[4], 'reason', ARGV[1], 'by', ARGV[3])
local unrecorded = type(done) == 'table' and done.err or ''
return {1, halt[1], halt[2] or '', halt[3] or '', unrecorded}
