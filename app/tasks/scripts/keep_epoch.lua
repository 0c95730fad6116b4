-- Keeps a release alive, and gives it its epoch once it is complete. ARGV: cluster, whether complete (1 or 0), ttl_ms.
-- A cluster gets one epoch in its life: one that lapsed and came back must not overtake its successor.
-- Returns its epoch, or 0 while it has none.
local cluster, complete, ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('ZCOUNT', key('gangs:' .. cluster), now(), '+inf') == 0 then
  return tonumber(redis.call('ZSCORE', key('epochs'), cluster) or 0)
end
local epoch = redis.call('ZSCORE', key('epochs'), cluster)
if not epoch then
  if complete ~= '1' then
    return 0
  end
  epoch = redis.call('INCR', key('epoch'))
  redis.call('ZADD', key('epochs'), epoch, cluster)
  redis.call('ZREMRANGEBYRANK', key('epochs'), 0, -101)
end
redis.call('SET', key('alive:' .. cluster), 1, 'PX', ttl_ms)
return tonumber(epoch)
