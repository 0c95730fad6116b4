-- Keeps a release alive while it has a serving gang, and gives it its epoch once it is complete.
-- A cluster gets one epoch in its life: a release that lapsed and returned must not overtake its successor.
-- ARGV: cluster, whether the release is complete (1 or 0), ttl_ms. Returns its epoch, or 0 while it has none.
local cluster, complete, ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('ZCOUNT', Key.SERVING_GANGS .. cluster, now(), '+inf') == 0 then
  return tonumber(redis.call('ZSCORE', Key.EPOCHS, cluster) or 0)
end
local epoch = redis.call('ZSCORE', Key.EPOCHS, cluster)
if not epoch then
  if complete ~= '1' then
    return 0
  end
  epoch = redis.call('INCR', Key.EPOCH)
  redis.call('ZADD', Key.EPOCHS, epoch, cluster)
  redis.call('ZREMRANGEBYRANK', Key.EPOCHS, 0, -101)
end
redis.call('SET', Key.ALIVE .. cluster, 1, 'PX', ttl_ms)
return tonumber(epoch)
