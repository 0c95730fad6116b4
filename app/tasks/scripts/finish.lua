-- Ends an attempt and its task. ARGV: id, attempt, token, status, finished_at, ttl_ms, then field names and values.
-- Returns 1, or 0 if the attempt is no longer the task's.
local id, status = ARGV[1], ARGV[4]
local known = status_of_own(id, ARGV[2], ARGV[3])
if not known then
  return 0
end
if known == status then
  return 1
end
-- A lease that expired put the task back into the queue; as long as no other attempt has begun, the video counts.
if known ~= 'running' and not (known == 'queued' and status == 'succeeded') then
  return 0
end
local fields = {}
for i = 7, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
if status == 'succeeded' then
  redis.call('HSET', Key.TASK .. id, 'step', redis.call('HGET', Key.TASK .. id, 'steps'))
end
finish(id, status, ARGV[5], tonumber(ARGV[6]), fields)
return 1
