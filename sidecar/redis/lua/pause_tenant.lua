-- Pause one tenant of a control stream, unless it is paused already.
--
-- With ARGV 8 what is noted of a pause is exchanged, if it is that: an erasure takes the pause, or
-- leaves it to the person who paused. It stays the same pause.
--
-- KEYS  1 halt   2 the record of halts   3 paused
-- ARGV  1 reason   2 the time, RFC 3339   3 who   4 the control stream   5 records to keep
--       6 tenant   7 what is noted, JSON   8 in place of which note; none: ''
-- Answer { 1 paused now | 0 it was paused before, what is noted, why it is not on record }

-- include change

redis.call('HDEL', KEYS[1], '')  -- so that this may run where no memory is left (decision 0021)
local now = redis.call('HSETNX', KEYS[3], ARGV[6], ARGV[7])
if now == 0 and redis.call('HGET', KEYS[3], ARGV[6]) == ARGV[8] then
  redis.call('HDEL', KEYS[3], ARGV[6])
  redis.call('HSETNX', KEYS[3], ARGV[6], ARGV[7])
end
local unrecorded = ''
if now == 1 then
  count_change(KEYS[1])
  -- A record that cannot be written must not keep anybody from pausing.
  local done = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'what', 'paused',
    'stream', ARGV[4], 'tenant', ARGV[6], 'reason', ARGV[1], 'by', ARGV[3])
  unrecorded = type(done) == 'table' and done.err or ''
end
return {now, redis.call('HGET', KEYS[3], ARGV[6]), unrecorded}
