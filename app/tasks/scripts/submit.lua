-- Creates a queued task. ARGV: id, digest, config (JSON), created_at, most queued tasks; an alias ('' for none), its
-- ttl_ms, and whether a task of this alias is looked for ('no', 'any' id, or only this 'id'); then names and values of
-- the task's other fields.
-- Returns {'created', seq}, {'exists', id} (same body), {'conflict'} (another body), {'full'}, or
-- {'no_memory'} while there is still enough for every other move of the tasks that exist.
local id, digest, config, created_at, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local alias, alias_ttl, look = ARGV[6], ARGV[7], ARGV[8]
if alias ~= '' and look ~= 'no' then
  local named = redis.call('GET', Key.ALIAS .. alias)
  if named and named ~= id and redis.call('EXISTS', Key.TASK .. named) == 1 then
    if look == 'id' then
      return { 'conflict' }
    end
    id = named
  end
end
local known = redis.call('HGET', Key.TASK .. id, 'digest')
if known then
  return { known == digest and 'exists' or 'conflict', id }
end
if redis.call('ZCARD', Key.QUEUE) >= limit then
  return { 'full' }
end
if memory_share() > 0.9 then
  return { 'no_memory' }
end
local seq = redis.call('INCR', Key.SEQUENCE)
redis.call('HSET', Key.TASK .. id, 'task_id', id, 'digest', digest, 'config', config, 'created_at', created_at,
  'seq', seq, 'attempt', 0, 'deaths', 0, 'step', 0, 'steps', 0, unpack(ARGV, 9))
if alias ~= '' then
  redis.call('SET', Key.ALIAS .. alias, id, 'PX', alias_ttl)
end
redis.call('ZADD', Key.TASKS, seq, id)
redis.call('ZADD', Key.QUEUE, seq, id)
set_status(id, 'queued')
-- A queue that was not empty has its gangs busy, and the end of a task wakes the dispatchers.
if redis.call('ZCARD', Key.QUEUE) == 1 then
  wake()
end
return { 'created', seq }
