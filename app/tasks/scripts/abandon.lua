-- Gives up an attempt because its gang broke. ARGV: id, attempt, reason, finished_at, ttl_ms, most deaths,
-- whether it is blameless (1 or 0), kind (may be empty).
-- Returns 1, or 0 if the attempt is no longer the task's.
local id, attempt = ARGV[1], ARGV[2]
local status, current = unpack(redis.call('HMGET', Key.TASK .. id, 'status', 'attempt'))
if status ~= 'running' or current ~= attempt then
  return 0
end
hand_over(id, ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1', ARGV[8])
return 1
