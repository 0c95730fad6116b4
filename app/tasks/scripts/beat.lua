-- Renews a lease and writes progress. ARGV: id, attempt, token, lease_ms, step.
-- Returns 'lost' if the attempt is no longer the task's, 'cancel' if it should stop, else 'ok'.
local id, attempt, lease_ms, step = ARGV[1], ARGV[2], tonumber(ARGV[4]), ARGV[5]
local task = Key.TASK .. id
local status = status_of_own(id, attempt, ARGV[3])
local cluster, cancel = unpack(redis.call('HMGET', task, 'cluster', 'cancel'))
if status ~= 'running' and status ~= 'queued' then
  return 'lost'
end
local until_ms = now() + lease_ms
if status == 'queued' then
  -- The lease expired unheard and nobody has begun another attempt: this one goes on.
  lease(id, cluster, 'attempt ' .. attempt, until_ms)
  set_status(id, 'running')
end
redis.call('ZADD', Key.LEASES, until_ms, id)
redis.call('ZADD', Key.HELD_BY_CLUSTER .. cluster, until_ms, id)
redis.call('HSET', task, 'step', step)
return cancel and 'cancel' or 'ok'
