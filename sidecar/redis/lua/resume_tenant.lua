-- Let a paused tenant of a control stream continue. Its dead letters in a row are counted anew.
--
-- Not one that is being erased: what its events name is going. The erasure itself gives its note.
--
-- KEYS  1 halt   2 the record of halts   3 paused   4 rows
-- ARGV  1 why   2 the time, RFC 3339   3 who   4 the control stream   5 records to keep   6 tenant
--       7 the note of the pause that is meant; '' for any but an erasure's
-- Answer { 1 was paused | 0 was not | -1 it stays so, by another note, what was noted, why it is not on record }

-- include change

local noted = redis.call('HGET', KEYS[3], ARGV[6])
if noted and noted ~= ARGV[7]
  and (ARGV[7] ~= '' or string.find(noted, ',"erasure":', 1, true)) then
  return {-1, noted, ''}
end
redis.call('HDEL', KEYS[4], ARGV[6])
if not noted then return {0, '', ''} end
redis.call('HDEL', KEYS[3], ARGV[6])
count_change(KEYS[1])
-- A record that cannot be written must not keep anybody from continuing.
local done = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'what', 'unpaused',
  'stream', ARGV[4], 'tenant', ARGV[6], 'reason', ARGV[1], 'by', ARGV[3])
local unrecorded = type(done) == 'table' and done.err or ''
return {1, noted, unrecorded}
