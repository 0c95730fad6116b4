-- Deletes ended tasks that are older than their time to live. ARGV: most tasks in one call. Returns their ids.
local ids = redis.call('ZRANGEBYSCORE', Key.ENDED, '-inf', now(), 'LIMIT', 0, tonumber(ARGV[1]))
for _, id in ipairs(ids) do
  local status = redis.call('HGET', Key.TASK .. id, 'status')
  redis.call('ZREM', Key.ENDED, id)
  redis.call('ZREM', Key.TASKS, id)
  redis.call('ZREM', Key.TASKS_BY_STATUS .. status, id)
  redis.call('DEL', Key.TASK .. id)
end
return ids
