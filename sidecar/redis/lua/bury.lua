-- Write one dead letter, under the fence, once an entry, never for a published event:
-- but for one that a repair sent again, for its notification is lost. The index forgets that.
--
-- KEYS  1 fence   2 halt   3 low   4 dead-letter stream
--       5 index shard of the event_id   6 index shard of the origin   7 the record of halts
--       8 the notes of what is sent again   9 trimmed   10 notification stream
-- ARGV  1 token   2 lowest entry unfinished after this letter
--       3 dead letters in a row that halt, 0 = never
--       4 14 bytes of event_id digest and 16 of content digest, or empty
--       5 14 bytes of origin digest and 16 that mark the entry
--       6 why the stream would be halted   7 the time, RFC 3339
--       8 what must be noted as the lowest unfinished entry for it to be moved, empty = anything:
--         letters are sent in a row, and one that fails must not be passed over
--       9 1: it begins a new row of dead letters
--       10 the control stream   11 records of halts to keep
--       then the letter's fields and values
-- Answer  2 written, and the stream is halted now   1 written   0 the fence is another's
--         -1 halted   -3 this entry has its letter   -4 the event is published
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('HEXISTS', KEYS[2], 'reason') == 1 then return -1 end

local function note_low()
  -- A deletion first, so that it may be noted where no memory is left (decision 0021).
  redis.call('HDEL', KEYS[2], ARGV[9] == '1' and 'dead_in_a_row' or '')
  if ARGV[8] == '' or redis.call('GET', KEYS[3]) == ARGV[8] then
    redis.call('SET', KEYS[3], ARGV[2])
  end
end

-- include sent_again

local is_lost = false
if ARGV[4] ~= '' then
  local id, content = string.sub(ARGV[4], 1, 14), string.sub(ARGV[4], 15)
  local known = redis.call('HGET', KEYS[5], id)
  if known and string.sub(known, 1, 16) == content then
    is_lost = is_sent_again(id, content, known, KEYS[8], KEYS[9], KEYS[10])
    if not is_lost then
      note_low()
      return -4
    end
  end
end
local time = redis.call('TIME')
local stamp = string.format('%.0f', time[1] * 1000000 + time[2])
-- The mark of another entry, which had this ID before the stream lost it, says nothing of this one.
-- Dashes may be of any entry: an older release wrote no other mark.
local origin, mark, any = string.sub(ARGV[5], 1, 14), string.sub(ARGV[5], 15), string.rep('-', 16)
local marked = redis.call('HGET', KEYS[6], origin)
marked = marked and string.sub(marked, 1, 16)
if marked and (marked == mark or marked == any or mark == any) then
  note_low()
  return -3
end
-- The mark first: without memory, or the right to write it, nothing was done. Should the letter fail,
-- its origin is not marked, or its event would be gone.
redis.call('HSET', KEYS[6], origin, mark .. stamp)
local added = redis.pcall('XADD', KEYS[4], '*', unpack(ARGV, 12))
if type(added) == 'table' and added.err then
  redis.call('HDEL', KEYS[6], origin)
  return added
end
if is_lost then redis.call('HDEL', KEYS[5], string.sub(ARGV[4], 1, 14)) end
redis.call('PERSIST', KEYS[6])  -- an older release let it expire as a whole
note_low()

local limit = tonumber(ARGV[3])
if limit == 0 or redis.call('HINCRBY', KEYS[2], 'dead_in_a_row', 1) < limit then return 1 end
redis.call('HSET', KEYS[2], 'reason', ARGV[6], 'since', ARGV[7], 'by', 'sidecar')
-- A record that cannot be written must not keep the stream from being halted.
redis.pcall('XADD', KEYS[7], 'MAXLEN', '~', ARGV[11], '*', 'what', 'halted', 'stream', ARGV[10],
  'reason', ARGV[6], 'by', 'sidecar')
return 2
