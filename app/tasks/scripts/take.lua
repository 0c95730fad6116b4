-- Hands out the oldest waiting task, if this cluster has the newest live release and a gang free for it.
-- ARGV: cluster, holder, lease_ms, finished_at, ttl_ms, most deaths. Returns {id, config} or nothing.
local cluster, holder, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local finished_at, ttl_ms, most_deaths = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local time = now()

-- Only the newest live release takes tasks. While no release is alive, every cluster may take.
local function may_take()
  for _, name in ipairs(redis.call('ZREVRANGE', Key.EPOCHS, 0, -1)) do
    if redis.call('EXISTS', Key.ALIVE .. name) == 1 then
      return name == cluster
    end
  end
  return true
end

-- If no dispatcher called for half a lease, Redis or the dispatchers were away. If it was Redis, leases expired because
-- it heard no heartbeat, so leaders get one more lease period to send one.
local function grant_grace_after_silence()
  local tick = tonumber(redis.call('GET', Key.TICK) or time)
  if time - tick > lease_ms / 2 then
    redis.call('SET', Key.GRACE, time + lease_ms)
  end
  -- Not at every call: each write goes to the append-only file.
  if time - tick > lease_ms / 10 or tick == time then
    redis.call('SET', Key.TICK, time)
  end
end

-- A task whose record is gone or damaged can never run; in the queue it would be the oldest for ever.
local function set_aside(id)
  redis.call('ZREM', Key.QUEUE, id)
  redis.call('ZREM', Key.LEASES, id)
  redis.call('ZREM', Key.HELD_BY_CLUSTER .. cluster, id)
  redis.call('ZADD', Key.DAMAGED, time, id)
end

local function is_whole(id)
  local fields = redis.call('HMGET', Key.TASK .. id, 'status', 'seq', 'config')
  return fields[1] and fields[2] and fields[3]
end

local function reclaim_expired_leases()
  if time < tonumber(redis.call('GET', Key.GRACE) or 0) then
    return
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', Key.LEASES, '-inf', time, 'LIMIT', 0, 16)) do
    if not is_whole(id) then
      set_aside(id)
    elseif redis.call('HGET', Key.TASK .. id, 'status') == 'running' then
      hand_over(id, 'its leader stopped answering', finished_at, ttl_ms, most_deaths)
    else
      requeue(id)
    end
  end
end

-- A task whose lease expired but was not reclaimed still occupies a gang, which may be working on it.
local function has_free_gang()
  redis.call('ZREMRANGEBYSCORE', Key.SERVING_GANGS .. cluster, '-inf', time)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', Key.HELD_BY_CLUSTER .. cluster, '-inf', time)) do
    if not is_whole(id) then
      set_aside(id)
    end
  end
  return redis.call('ZCARD', Key.HELD_BY_CLUSTER .. cluster) < redis.call('ZCARD', Key.SERVING_GANGS .. cluster)
end

local function lease_oldest()
  local id = redis.call('ZRANGE', Key.QUEUE, 0, 0)[1]
  while id and not is_whole(id) do
    set_aside(id)
    id = redis.call('ZRANGE', Key.QUEUE, 0, 0)[1]
  end
  if not id then
    return nil
  end
  lease(id, cluster, holder, time + lease_ms)
  return { id, redis.call('HGET', Key.TASK .. id, 'config') }
end

if not may_take() then
  return nil
end
grant_grace_after_silence()
reclaim_expired_leases()
return has_free_gang() and lease_oldest() or nil
