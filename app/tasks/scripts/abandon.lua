-- Gives up an attempt because its gang broke. ARGV: id, attempt, token, reason, finished_at, ttl_ms, most deaths,
-- whether it is blameless (1 or 0), kind (may be empty).
-- Returns 1, or 0 if the attempt is no longer the task's.
local id = ARGV[1]
if status_of_own(id, ARGV[2], ARGV[3]) ~= 'running' then
  return 0
end
hand_over(id, ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8] == '1', ARGV[9])
return 1
