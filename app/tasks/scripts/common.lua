-- Put before every script: names, the server's clock and the few moves that all of them share.
local PREFIX = KEYS[1]

local function key(name)
  return PREFIX .. name
end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function wake()
  redis.call('PUBLISH', key('wake'), '')
end

local function set_status(id, status)
  local old = redis.call('HGET', key('task:' .. id), 'status')
  if old == status then
    return
  end
  if old then
    redis.call('ZREM', key('tasks:' .. old), id)
  end
  redis.call('HSET', key('task:' .. id), 'status', status)
  redis.call('ZADD', key('tasks:' .. status), redis.call('HGET', key('task:' .. id), 'seq'), id)
end

local function release(id)
  local cluster = redis.call('HGET', key('task:' .. id), 'cluster')
  redis.call('ZREM', key('leases'), id)
  if cluster then
    redis.call('ZREM', key('out:' .. cluster), id)
  end
  redis.call('HDEL', key('task:' .. id), 'holder')
end

local function lease(id, cluster, holder, until_ms)
  release(id)
  redis.call('ZREM', key('queue'), id)
  redis.call('HSET', key('task:' .. id), 'cluster', cluster, 'holder', holder)
  redis.call('ZADD', key('leases'), until_ms, id)
  redis.call('ZADD', key('out:' .. cluster), until_ms, id)
end

local function requeue(id)
  release(id)
  set_status(id, 'queued')
  redis.call('ZADD', key('queue'), redis.call('HGET', key('task:' .. id), 'seq'), id)
  wake()
end

-- fields: a flat list of names and values, such as the video or the error.
local function finish(id, status, finished_at, ttl_ms, fields)
  release(id)
  redis.call('ZREM', key('queue'), id)
  set_status(id, status)
  redis.call('HSET', key('task:' .. id), 'finished_at', finished_at, unpack(fields))
  redis.call('ZADD', key('ended'), now() + ttl_ms, id)
  wake()
end

-- The holder of a running task is gone: the next attempt may start, unless too many were lost or nobody wants it.
-- A blameless end does not count. From the second death on the task goes behind all others, so that one that kills
-- its gangs delays nobody. A kind of end that comes twice fails the task: a third attempt would end likewise.
local function hand_over(id, reason, finished_at, ttl_ms, most_deaths, blameless, kind)
  local task = key('task:' .. id)
  if redis.call('HGET', task, 'cancel') then
    finish(id, 'cancelled', finished_at, ttl_ms, {})
    return
  end
  if blameless then
    requeue(id)
    return
  end
  local deaths = redis.call('HINCRBY', task, 'deaths', 1)
  if kind and kind ~= '' then
    if redis.call('HGET', task, 'last_end') == kind then
      finish(id, 'failed', finished_at, ttl_ms, { 'error_code', 'no_progress', 'error_message',
        'two attempts ended in the same way, the second time because ' .. reason })
      return
    end
    redis.call('HSET', task, 'last_end', kind)
  end
  if deaths > most_deaths then
    finish(id, 'failed', finished_at, ttl_ms, { 'error_code', 'gang_lost', 'error_message',
      'the task lost its gang ' .. deaths .. ' times, the last time because ' .. reason })
    return
  end
  requeue(id)
  if deaths > 1 then
    redis.call('ZADD', key('queue'), redis.call('INCR', key('seq')), id)
  end
end
