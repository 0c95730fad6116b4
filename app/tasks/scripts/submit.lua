-- Creates a queued task. KEYS: none beside the prefix. ARGV: id, digest, config (JSON), created_at, most queued tasks.
-- Returns 'created', 'exists' (same body), 'conflict' (another body) or 'full'.
local id, digest, config, created_at, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local known = redis.call('HGET', key('task:' .. id), 'digest')
if known then
  return known == digest and 'exists' or 'conflict'
end
if redis.call('ZCARD', key('queue')) >= limit then
  return 'full'
end
local seq = redis.call('INCR', key('seq'))
redis.call('HSET', key('task:' .. id), 'task_id', id, 'digest', digest, 'config', config, 'created_at', created_at,
  'seq', seq, 'attempt', 0, 'deaths', 0, 'step', 0, 'steps', 0)
redis.call('ZADD', key('tasks'), seq, id)
redis.call('ZADD', key('queue'), seq, id)
set_status(id, 'queued')
wake()
return 'created'
