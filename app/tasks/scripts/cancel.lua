-- Cancels a queued task at once and asks a running one to stop. ARGV: id, finished_at, ttl_ms.
-- Returns 1, or 0 for an unknown task; an ended one stays as it is.
local id = ARGV[1]
local status = redis.call('HGET', key('task:' .. id), 'status')
if not status then
  return 0
end
if status == 'queued' then
  finish(id, 'cancelled', ARGV[2], tonumber(ARGV[3]), {})
elseif status == 'running' then
  redis.call('HSET', key('task:' .. id), 'cancel', 1)
end
return 1
