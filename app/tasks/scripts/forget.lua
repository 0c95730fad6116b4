-- Deletes the record of an ended task whose files are gone. ARGV: id, ttl_ms of its place in lists.
local id = ARGV[1]
if not redis.call('ZSCORE', Key.ENDED, id) then
  return
end
for _, status in ipairs({ 'queued', 'running', 'succeeded', 'failed', 'cancelled' }) do
  redis.call('ZREM', Key.TASKS_BY_STATUS .. status, id)
end
redis.call('ZREM', Key.ENDED, id)
redis.call('SET', Key.FORGOTTEN .. id, redis.call('ZSCORE', Key.TASKS, id) or 0, 'PX', ARGV[2])
redis.call('ZREM', Key.TASKS, id)
redis.call('DEL', Key.TASK .. id)
