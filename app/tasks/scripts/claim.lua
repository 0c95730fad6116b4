-- Takes the keys for a release if no other release has them.
-- ARGV: release, empty if it has no name. Returns the name of another release that has them, else ''.
local owner = redis.call('GET', Key.OWNER)
if owner and owner ~= ARGV[1] then
  return owner
end
if not owner and ARGV[1] ~= '' then
  redis.call('SET', Key.OWNER, ARGV[1])
end
return ''
