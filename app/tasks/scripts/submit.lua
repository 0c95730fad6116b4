-- Creates a queued task. ARGV: id, digest, config (JSON), created_at, most queued tasks; names and values of other
-- fields.
-- Returns {'created', seq}, {'exists'} (same body), {'conflict'} (another body), {'full'}, or
-- {'no_memory'} while there is still enough for every other move of the tasks that exist.
local id, digest, config, created_at, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local known = redis.call('HGET', Key.TASK .. id, 'digest')
if known then
  return { known == digest and 'exists' or 'conflict' }
end
if redis.call('ZCARD', Key.QUEUE) >= limit then
  return { 'full' }
end
if memory_share() > 0.9 then
  return { 'no_memory' }
end
local seq = redis.call('INCR', Key.SEQUENCE)
redis.call('HSET', Key.TASK .. id, 'task_id', id, 'digest', digest, 'config', config, 'created_at', created_at,
  'seq', seq, 'attempt', 0, 'deaths', 0, 'step', 0, 'steps', 0, unpack(ARGV, 6))
redis.call('ZADD', Key.TASKS, seq, id)
redis.call('ZADD', Key.QUEUE, seq, id)
set_status(id, 'queued')
-- A queue that was not empty has its gangs busy, and the end of a task wakes the dispatchers.
if redis.call('ZCARD', Key.QUEUE) == 1 then
  wake()
end
return { 'created', seq }
