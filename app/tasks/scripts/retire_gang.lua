-- Removes a gang that stops in good order. ARGV: cluster, gang.
redis.call('DEL', Key.GANG .. ARGV[2])
redis.call('ZREM', Key.GANGS .. ARGV[1], ARGV[2])
redis.call('ZREM', Key.SERVING_GANGS .. ARGV[1], ARGV[2])
