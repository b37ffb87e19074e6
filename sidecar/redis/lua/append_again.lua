-- Append to a control stream an event that stood there before, unless what came since it was held
-- against all others may be newer, of the same subject or ref: that is to be looked at first.
--
-- KEYS  1 control stream
-- ARGV  1 the ID up to which its entries were looked at
--       2 tenant_id   3 stack_id   4 artifact_ref, each empty where the event has none
--       then the entry's fields and values
-- Answer  { 1 appended | 0 look first | -1 there is no such stream, its ID or an empty string }
local MOST = 1000  -- looked at here: more would keep Redis from its other clients
if redis.call('EXISTS', KEYS[1]) == 0 then return {-1, ''} end

local function is_about_the_same(raw)
  local decoded, body = pcall(cjson.decode, raw)
  if not decoded or type(body) ~= 'table' then return true end  -- not for a script to judge
  local function said(name) return type(body[name]) == 'string' and body[name] or '' end
  if ARGV[4] ~= '' and said('artifact_ref') == ARGV[4] then return true end
  return ARGV[3] ~= '' and said('stack_id') == ARGV[3] and said('tenant_id') == ARGV[2]
end

local came = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', MOST + 1)
if #came > MOST then return {0, ''} end
for _, entry in ipairs(came) do
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == 'event' and is_about_the_same(fields[i + 1]) then return {0, ''} end
  end
end
return {1, redis.call('XADD', KEYS[1], '*', unpack(ARGV, 5))}
