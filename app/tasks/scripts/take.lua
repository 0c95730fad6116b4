-- Hands out the oldest task that may run, if this cluster may take one and has a gang free for it.
-- ARGV: cluster, holder, lease_ms, finished_at, ttl_ms, most deaths. Returns {id, config} or nothing.
local cluster, holder, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local finished_at, ttl_ms, most_deaths = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local time = now()

-- Only the newest release that lives takes tasks; where none lives yet, anybody does.
local newest
for _, name in ipairs(redis.call('ZREVRANGE', key('epochs'), 0, -1)) do
  if redis.call('EXISTS', key('alive:' .. name)) == 1 then
    newest = name
    break
  end
end
if newest and newest ~= cluster then
  return nil
end

-- A silence of the dispatchers means that Redis was away, or they were: then leases ran out unheard, and
-- their leaders get one more lease period to say that they live.
local tick = tonumber(redis.call('GET', key('tick')) or time)
if time - tick > lease_ms / 2 then
  redis.call('SET', key('grace'), time + lease_ms)
end
if time - tick > lease_ms / 10 or tick == time then
  redis.call('SET', key('tick'), time)
end
local grace = tonumber(redis.call('GET', key('grace')) or 0)

if time >= grace then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('leases'), '-inf', time, 'LIMIT', 0, 16)) do
    if redis.call('HGET', key('task:' .. id), 'status') == 'running' then
      hand_over(id, 'its leader stopped answering', finished_at, ttl_ms, most_deaths)
    else
      requeue(id)
    end
  end
end

redis.call('ZREMRANGEBYSCORE', key('gangs:' .. cluster), '-inf', time)
-- A lease that ran out still counts: until it is handed over its gang may be at work.
if redis.call('ZCARD', key('out:' .. cluster)) >= redis.call('ZCARD', key('gangs:' .. cluster)) then
  return nil
end
local id = redis.call('ZRANGE', key('queue'), 0, 0)[1]
if not id then
  return nil
end
lease(id, cluster, holder, time + lease_ms)
return { id, redis.call('HGET', key('task:' .. id), 'config') }
