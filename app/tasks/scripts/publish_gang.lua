-- Publishes a gang's state for ttl_ms. ARGV: cluster, gang, whether it takes tasks (1 or 0), ttl_ms, state (JSON).
-- Without a state it renews the published one, a few bytes of the append-only file; returns 0 if there is none.
local cluster, gang, serving, ttl_ms, state = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local until_ms = now() + ttl_ms
if state == '' then
  if redis.call('PEXPIRE', Key.GANG .. gang, ttl_ms) == 0 then
    return 0
  end
else
  redis.call('SET', Key.GANG .. gang, state, 'PX', ttl_ms)
end
redis.call('ZREMRANGEBYSCORE', Key.GANGS .. cluster, '-inf', now())
redis.call('ZADD', Key.GANGS .. cluster, until_ms, gang)
if serving == '1' then
  if redis.call('ZADD', Key.SERVING_GANGS .. cluster, until_ms, gang) == 1 then
    wake()
  end
else
  redis.call('ZREM', Key.SERVING_GANGS .. cluster, gang)
end
return 1
