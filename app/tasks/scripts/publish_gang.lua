-- Says that a gang lives. ARGV: cluster, gang, state (JSON), whether it takes tasks (1 or 0), ttl_ms.
local cluster, gang, state, serving, ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local until_ms = now() + ttl_ms
redis.call('SET', key('gang:' .. gang), state, 'PX', ttl_ms)
redis.call('ZADD', key('members:' .. cluster), until_ms, gang)
if serving == '1' then
  if redis.call('ZADD', key('gangs:' .. cluster), until_ms, gang) == 1 then
    wake()
  end
else
  redis.call('ZREM', key('gangs:' .. cluster), gang)
end
