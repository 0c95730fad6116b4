-- A gang ends in good order. ARGV: cluster, gang.
redis.call('DEL', key('gang:' .. ARGV[2]))
redis.call('ZREM', key('members:' .. ARGV[1]), ARGV[2])
redis.call('ZREM', key('gangs:' .. ARGV[1]), ARGV[2])
