-- Returns the ids of ended tasks that are older than their time to live, and gives the caller a while to delete their
-- files before another one is given them, too. ARGV: most tasks in one call, milliseconds.
local time = now()
local ids = redis.call('ZRANGEBYSCORE', Key.ENDED, '-inf', time, 'LIMIT', 0, tonumber(ARGV[1]))
for _, id in ipairs(ids) do
  redis.call('ZADD', Key.ENDED, time + tonumber(ARGV[2]), id)
end
return ids
