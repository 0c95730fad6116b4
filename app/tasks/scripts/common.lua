-- Functions that all scripts share. Key is the table of keys from app/tasks/keys.py, which precedes this text.

-- Milliseconds since the epoch, by this server's clock.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Returns the task's status if the attempt is its own, else nil. A number alone does not tell attempts apart: after a
-- fail-over to a server that had not heard of a start, two leaders hold the same number. The token is in one of them.
local function status_of_own(id, attempt, token)
  local status, current, own = unpack(redis.call('HMGET', Key.TASK .. id, 'status', 'attempt', 'token'))
  return current == attempt and own == token and status or nil
end

-- Returns the share of maxmemory that is used; 0 if there is no limit or this user of the server may not ask.
local function memory_share()
  local info = redis.pcall('INFO', 'memory')
  if type(info) ~= 'string' then
    return 0
  end
  local used, most = tonumber(info:match('used_memory:(%d+)')), tonumber(info:match('\nmaxmemory:(%d+)'))
  return used and most and most > 0 and used / most or 0
end

-- Tells the dispatchers that a task may be ready to take.
local function wake()
  redis.call('PUBLISH', Key.WAKE, '')
end

-- Records the status in the task and in the lists of tasks by status.
local function set_status(id, status)
  local old = redis.call('HGET', Key.TASK .. id, 'status')
  if old == status then
    return
  end
  if old then
    redis.call('ZREM', Key.TASKS_BY_STATUS .. old, id)
  end
  redis.call('HSET', Key.TASK .. id, 'status', status)
  redis.call('ZADD', Key.TASKS_BY_STATUS .. status, redis.call('HGET', Key.TASK .. id, 'seq'), id)
end

-- Ends the hold that a dispatcher or a leader has on a task.
local function release(id)
  local cluster = redis.call('HGET', Key.TASK .. id, 'cluster')
  redis.call('ZREM', Key.LEASES, id)
  if cluster then
    redis.call('ZREM', Key.HELD_BY_CLUSTER .. cluster, id)
  end
  redis.call('HDEL', Key.TASK .. id, 'holder')
end

-- Takes a task out of the queue and gives it to a holder until a time.
local function lease(id, cluster, holder, until_ms)
  release(id)
  redis.call('ZREM', Key.QUEUE, id)
  redis.call('HSET', Key.TASK .. id, 'cluster', cluster, 'holder', holder)
  redis.call('ZADD', Key.LEASES, until_ms, id)
  redis.call('ZADD', Key.HELD_BY_CLUSTER .. cluster, until_ms, id)
end

-- Ends a task's hold and puts the task back into the queue at its place: its old one, unless hand_over gave another.
local function requeue(id)
  release(id)
  set_status(id, 'queued')
  local seq, place = unpack(redis.call('HMGET', Key.TASK .. id, 'seq', 'place'))
  redis.call('ZADD', Key.QUEUE, place or seq, id)
  wake()
end

-- Ends a task. fields: a flat list of names and values, such as the video or the error.
local function finish(id, status, finished_at, ttl_ms, fields)
  release(id)
  redis.call('ZREM', Key.QUEUE, id)
  set_status(id, status)
  redis.call('HSET', Key.TASK .. id, 'finished_at', finished_at, unpack(fields))
  redis.call('ZADD', Key.ENDED, now() + ttl_ms, id)
  wake()
end

-- Ends a lost attempt at a running task. The task is queued again, unless a client cancelled it or it lost more gangs
-- than most_deaths. A blameless end does not count. From the second death on the task goes behind all others, so that
-- a task that kills its gangs delays nobody. A kind of end that comes twice fails the task: a third attempt would end
-- in the same way.
local function hand_over(id, reason, finished_at, ttl_ms, most_deaths, blameless, kind)
  local task = Key.TASK .. id
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
  if deaths > 1 then
    redis.call('HSET', task, 'place', redis.call('INCR', Key.SEQUENCE))
  end
  requeue(id)
end
