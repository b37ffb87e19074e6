-- Halt a control stream, unless it is halted already.
--
-- KEYS  1 halt   2 the record of halts
-- ARGV  1 reason   2 the time, RFC 3339   3 who   4 the control stream   5 records to keep
-- Answer { 1 halted now | 0 it was halted before, reason, since, by, why it is not on record }
redis.call('HDEL', KEYS[1], '')  -- so that this may run where no memory is left (decision 0021)
local now = redis.call('HSETNX', KEYS[1], 'reason', ARGV[1])
local unrecorded = ''
if now == 1 then
  redis.call('HSET', KEYS[1], 'since', ARGV[2], 'by', ARGV[3])
  -- A record that cannot be written must not keep anybody from halting.
  local done = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'what', 'halted',
    'stream', ARGV[4], 'reason', ARGV[1], 'by', ARGV[3])
  unrecorded = type(done) == 'table' and done.err or ''
end
local halt = redis.call('HMGET', KEYS[1], 'reason', 'since', 'by')
return {now, halt[1] or '', halt[2] or '', halt[3] or '', unrecorded}
