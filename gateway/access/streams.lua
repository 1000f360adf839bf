-- Gives one event stream a place in each of its limits, or in none (interface §2.2).
--
-- KEYS  one a limit, all in one hash slot: sorted sets of open streams by when their place ends, in milliseconds.
-- ARGV  the stream's id, for how long it has its places (ms), and how many streams each limit holds.
-- Returns 1 if it has them, else 0.

local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lifetime = tonumber(ARGV[2])

for i, key in ipairs(KEYS) do
  redis.call("ZREMRANGEBYSCORE", key, "-inf", string.format("%.0f", now))
  -- Further ahead than a place can end: the clock was set back. Whoever still reads is renewed soon.
  redis.call("ZREMRANGEBYSCORE", key, string.format("(%.0f", now + lifetime), "+inf")
  if redis.call("ZCARD", key) >= tonumber(ARGV[i + 2]) then
    return 0
  end
end

for _, key in ipairs(KEYS) do
  redis.call("ZADD", key, string.format("%.0f", now + lifetime), ARGV[1])
  redis.call("PEXPIRE", key, lifetime)
end
return 1
