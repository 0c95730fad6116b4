-- Cancels a queued task at once and asks a running one to stop. ARGV: id, finished_at, ttl_ms.
-- Returns 1, or 0 for an unknown task; an ended task does not change.
local id = ARGV[1]
local status = redis.call('HGET', Key.TASK .. id, 'status')
if not status then
  return 0
end
if status == 'queued' then
  finish(id, 'cancelled', ARGV[2], tonumber(ARGV[3]), {})
elseif status == 'running' then
  redis.call('HSET', Key.TASK .. id, 'cancel', 1)
end
return 1
