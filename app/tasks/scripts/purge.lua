-- Forgets ended tasks whose time is over. ARGV: most tasks in one call. Returns their ids.
local ids = redis.call('ZRANGEBYSCORE', key('ended'), '-inf', now(), 'LIMIT', 0, tonumber(ARGV[1]))
for _, id in ipairs(ids) do
  local status = redis.call('HGET', key('task:' .. id), 'status')
  redis.call('ZREM', key('ended'), id)
  redis.call('ZREM', key('tasks'), id)
  redis.call('ZREM', key('tasks:' .. status), id)
  redis.call('DEL', key('task:' .. id))
end
return ids
