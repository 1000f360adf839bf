-- Compare and swap: give a key another value, if it still holds the expected one and it is not too late.
--
-- KEYS  one.
-- ARGV  the expected value, "" for none; the new value, "" to delete the key; how long the new value lives, in
--       milliseconds; and the last instant at which it may be set, in microseconds of this server's clock, "" for any.
-- Returns this server's time in microseconds; 1 if it was done, else 0; and the value that was in the way, "" for none.

local key = KEYS[1]
local expected, new, lives, not_after = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]

-- TYPE answers for a key of any kind, where GET would fail. The name of another kind is no value that anyone writes.
local current = redis.call("TYPE", key).ok
if current == "none" then
  current = ""
elseif current == "string" then
  current = redis.call("GET", key)
end

if current ~= expected then
  -- What is found is acted on, and a failover must not take it back. Setting the time to live that it has anyway
  -- is a write, so that waiting for a replica covers the value too, and a primary that was demoted refuses.
  local left = redis.call("PTTL", key)
  if left > 0 then
    redis.call("PEXPIRE", key, left)
  end
  return {now, 0, current}
end

if not_after ~= "" and now > tonumber(not_after) then
  return {now, 0, ""}
end

if new == "" then
  redis.call("DEL", key)
else
  redis.call("SET", key, new, "PX", lives)
end
return {now, 1, ""}
