-- Halt a control stream, unless it is halted already.
--
-- KEYS  1 halt
-- ARGV  1 reason   2 the time, RFC 3339   3 who
-- Answer { 1 halted now | 0 it was halted before, reason, since, by }
local now = redis.call('HSETNX', KEYS[1], 'reason', ARGV[1])
if now == 1 then
  redis.call('HSET', KEYS[1], 'since', ARGV[2], 'by', ARGV[3])
end
local halt = redis.call('HMGET', KEYS[1], 'reason', 'since', 'by')
return {now, halt[1] or '', halt[2] or '', halt[3] or ''}
