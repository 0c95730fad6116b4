-- Deletes the record of an ended task whose files are gone. ARGV: id, ttl_ms of its place in lists.
local id = ARGV[1]
if not redis.call('ZSCORE', Key.ENDED, id) then
  return
end
for _, status in ipairs({ 'queued', 'running', 'succeeded', 'failed', 'cancelled' }) do
  redis.call('ZREM', Key.TASKS_BY_STATUS .. status, id)
end
redis.call('ZREM', Key.ENDED, id)
local place = redis.call('ZSCORE', Key.TASKS, id)
redis.call('ZREM', Key.TASKS, id)
redis.call('DEL', Key.TASK .. id)
-- pcall: a Redis without memory refuses this, and must not refuse the rest.
redis.pcall('SET', Key.FORGOTTEN .. id, place or 0, 'PX', ARGV[2])
