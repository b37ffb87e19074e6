-- Put on record that Redis forgot something, unless someone did since it was last seen whole.
--
-- KEYS  1 the record
-- ARGV  1 what is lost   2 the stream   3 the highest entry known   4 what was found in its place
--       5 a record from this ID on is of the same loss; +: none is
--       6 when it was seen whole last, RFC 3339   7 records to keep
-- Answer  1 on record now   0 it was already
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', ARGV[5], 'COUNT', 1000)) do
  local record = {}
  for i = 1, #entry[2], 2 do record[entry[2][i]] = entry[2][i + 1] end
  if record.what == 'forgot' and record.lost == ARGV[1] and record.stream == ARGV[2] then
    return 0
  end
end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[7], '*', 'what', 'forgot', 'lost', ARGV[1],
  'stream', ARGV[2], 'known', ARGV[3], 'found', ARGV[4], 'whole_until', ARGV[6], 'by', 'sidecar')
return 1
