-- Publishes a gang's state for ttl_ms. ARGV: cluster, gang, state (JSON), whether it takes tasks (1 or 0), ttl_ms.
local cluster, gang, state, serving, ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local until_ms = now() + ttl_ms
redis.call('SET', Key.GANG .. gang, state, 'PX', ttl_ms)
redis.call('ZREMRANGEBYSCORE', Key.GANGS .. cluster, '-inf', now())
redis.call('ZADD', Key.GANGS .. cluster, until_ms, gang)
if serving == '1' then
  if redis.call('ZADD', Key.SERVING_GANGS .. cluster, until_ms, gang) == 1 then
    wake()
  end
else
  redis.call('ZREM', Key.SERVING_GANGS .. cluster, gang)
end
