-- Remember how far a stream has been trimmed, or is about to be. It never moves back;
-- garbage gives way, for what goes now lies above all that went before.
--
-- KEYS  1 trimmed
-- ARGV  1 the stream   2 the highest entry ID that goes, its milliseconds   3 its sequence
--       4 the field that has how many are gone   5 how many are gone with that one, or empty
-- Answer  1
local ms, seq = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '0-0', '^(%d+)-(%d+)$')
local function less(a, b) return #a < #b or (#a == #b and a < b) end
if not ms or #ms > 20 or #seq > 20 or less(ms, ARGV[2]) or (ms == ARGV[2] and less(seq, ARGV[3])) then
  local last = ARGV[2] .. '-' .. ARGV[3]
  redis.call('HDEL', KEYS[1], ARGV[1], ARGV[4])  -- so that both may be noted without any memory
  redis.call('HSET', KEYS[1], ARGV[1], last)
  if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], ARGV[4], last .. ' ' .. ARGV[5]) end
end
return 1
