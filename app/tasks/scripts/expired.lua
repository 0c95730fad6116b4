-- Returns the ids of ended tasks that are older than their time to live, and gives the caller a while to delete their
-- files before another one is given them, too. While memory is short, tasks that ended without a video go before their
-- time, the oldest first: otherwise a client that submits and cancels would fill the memory for the whole time to live.
-- ARGV: most tasks in one call, milliseconds.
local time, most = now(), tonumber(ARGV[1])
if memory_share() > 0.75 then
  for _, status in ipairs({ 'cancelled', 'failed' }) do
    for _, id in ipairs(redis.call('ZRANGE', Key.TASKS_BY_STATUS .. status, 0, most - 1)) do
      -- One that another caller was given keeps its later time.
      if tonumber(redis.call('ZSCORE', Key.ENDED, id) or 0) > time + tonumber(ARGV[2]) then
        redis.call('ZADD', Key.ENDED, time, id)
      end
    end
  end
end
local ids = redis.call('ZRANGEBYSCORE', Key.ENDED, '-inf', time, 'LIMIT', 0, most)
for _, id in ipairs(ids) do
  redis.call('ZADD', Key.ENDED, time + tonumber(ARGV[2]), id)
end
return ids
