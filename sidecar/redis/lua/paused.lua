-- Tell which tenants are paused, in bounded memory: who may pause may write there what they like.
--
-- KEYS  1 halt   2 paused
-- ARGV  1 tenants that are told at most   2 bytes of a name, and of what is noted, at most
-- Answer { how often it was changed, how many are paused, tenant, what is noted, … }
--        without the tenants where there are too many
-- A name that is too long is no tenant's and goes; what is noted is cut.

-- include bound_halt

bound_halt(KEYS[1])
local changes = redis.call('HGET', KEYS[1], 'tenants') or ''
local found, most = redis.call('HGETALL', KEYS[2]), tonumber(ARGV[2])
if #found > 2 * tonumber(ARGV[1]) then return {changes, #found / 2} end
local answer = {changes, #found / 2}
for at = 1, #found, 2 do
  local tenant, noted = found[at], found[at + 1]
  if #tenant > most then
    redis.call('HDEL', KEYS[2], tenant)
  else
    if #noted > most then
      noted = string.sub(noted, 1, most)
      redis.pcall('HSET', KEYS[2], tenant, noted)
    end
    answer[#answer + 1], answer[#answer + 2] = tenant, noted
  end
end
return answer
