-- Begins the next attempt at a queued task. ARGV: id, cluster, holder, lease_ms, started_at, steps,
-- token (random). Returns {'started', attempt, token, config}; or {status} of a task that runs elsewhere or ended; or {'unknown'}.
local id, cluster, holder, lease_ms, started_at, steps = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local token = ARGV[7]
local task = Key.TASK .. id
local status = redis.call('HGET', task, 'status')
if not status then
  return { 'unknown' }
end
-- If a reply was lost and the call is made again, the same holder gets the same reply.
if status == 'running' and redis.call('HGET', task, 'holder') == holder then
  return { 'started', unpack(redis.call('HMGET', task, 'attempt', 'token', 'config')) }
end
if status ~= 'queued' then
  return { status }
end
local attempt = redis.call('HINCRBY', task, 'attempt', 1)
lease(id, cluster, holder, now() + lease_ms)
set_status(id, 'running')
redis.call('HSET', task, 'started_at', started_at, 'step', 0, 'steps', steps,
  'token', token)
return { 'started', attempt, token, redis.call('HGET', task, 'config') }
