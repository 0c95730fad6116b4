-- Puts back a task that a dispatcher could not deliver, if no leader has started it and the dispatcher still holds it.
-- ARGV: id, holder. Returns 1, or 0 if the task stays as it is.
local id, holder = ARGV[1], ARGV[2]
local status, current = unpack(redis.call('HMGET', Key.TASK .. id, 'status', 'holder'))
if status == 'queued' and current == holder then
  requeue(id)
  return 1
end
return 0
