-- A dispatcher could not deliver what it took. ARGV: id, holder. Only an unstarted task that is still its own goes back.
local id, holder = ARGV[1], ARGV[2]
local status, current = unpack(redis.call('HMGET', key('task:' .. id), 'status', 'holder'))
if status == 'queued' and current == holder then
  requeue(id)
  return 1
end
return 0
