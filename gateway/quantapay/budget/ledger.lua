-- The sliding log of calls to QuantaPay, over all processes (interface §2.3): look at it, or take calls from it.
--
-- KEYS  three logs, the generation, and until when QuantaPay throttles; all in one hash slot. A log is a sorted
--       set: a grant's id, scored by when it was granted. The logs are nested: every grant is in the first, those
--       for reads and background work are in the second too, those for background work in the third too.
-- ARGV  see `Ledger._send`, which writes them in this order. All times are microseconds.
-- Returns Redis's time, the generation, and for how long it is still new. Then for each ask, which are decided one
-- after the other as if they had come so: the wait (0: taken, or nothing was to be taken; -1: report your grants first,
-- then ask again), for how long throttled, and the size of each log.
--
-- The generation names an unbroken memory. A new one begins when the old is gone (a flush, a restart, a failover
-- to a server without data), when a process comes back that could not reach us, and when the clock was set forward. Each
-- process then reports its own grants before it is granted anything. While the generation is new not all have done
-- so, and a process is granted only what it might take alone.
--
-- Every number is an integer below 2^53, which is all that Lua's doubles can tell apart; `%.0f` prints them
-- without an exponent.

local LOGS = 3
local settings = cjson.decode(ARGV[1])  -- what never changes, as one text: redis-py takes microseconds for each argument
local span, new_for, longest_throttle = settings[1], settings[2], settings[3]
local FIRST_CAP = 4     -- the cap of each log, then the cap of each while throttled
local known = ARGV[2]            -- the generation to which the process has reported all its grants
local in_touch = ARGV[3] == "1"  -- it never failed to reach us since
local latest = tonumber(ARGV[4])  -- our time can be no later than this, if nobody set our clock
-- Of each ask: its id; into how many of the logs a grant is entered (0 only looks); whether it fits the process's
-- share; for how long the process knows that QuantaPay throttles.
local ASK = "(%S+) (%d) (%d) (%d+)"
local asks = ARGV[5]
local FIRST_REPORT = 6  -- in ARGV

local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]

local function int(number)
  return string.format("%.0f", number)
end

local now_text = int(now)

local function enter(member, score, logs)
  for log = 1, logs do
    redis.call("ZADD", KEYS[log], score, member)
  end
end

-- The generation. A clock set forward makes grants look older than they are; their processes know better, and tell.
-- A command that a frozen server runs late finds the time past `latest` too, and so takes nothing.
local generation = redis.call("GET", KEYS[4])
local began = generation and tonumber(string.match(generation, "^%d+"))
local doubted = generation == known and not (in_touch and now <= latest)
if not generation or began > now or doubted then
  began = now
  generation = now_text .. ":" .. string.match(asks, "%S+")
  redis.call("SET", KEYS[4], generation)
end
local new_left = math.max(began + new_for - now, 0)

-- What the process reports: depth, id and age of each of its own grants. The same id is the same grant.
for i = FIRST_REPORT, #ARGV, 3 do
  enter(ARGV[i + 1], int(now - tonumber(ARGV[i + 2])), tonumber(ARGV[i]))
end

local has_new_logs = #ARGV >= FIRST_REPORT
local counts, a_span_ago = {}, int(now - span)
for log = 1, LOGS do
  counts[log] = redis.call("ZCARD", KEYS[log])
  if counts[log] > 0 then
    counts[log] = counts[log] - redis.call("ZREMRANGEBYSCORE", KEYS[log], "-inf", a_span_ago)
    -- A grant from the future is from before the clock was set back. It is no younger than now: so counted, it holds
    -- its place for one span at most, however far the clock was moved.
    for _, member in ipairs(redis.call("ZRANGEBYSCORE", KEYS[log], "(" .. now_text, "+inf")) do
      redis.call("ZADD", KEYS[log], now_text, member)
    end
  end
end

-- The throttle: the longest that is known, but never longer than one can be.
local kept = tonumber(redis.call("GET", KEYS[5]) or 0) - now

local function throttled_after(throttle_for)
  local throttled = math.max(math.min(kept, longest_throttle), throttle_for, 0)
  if throttled > 0 and throttled ~= kept then
    redis.call("SET", KEYS[5], int(now + throttled), "PX", int(math.ceil(throttled / 1000)))
    kept = throttled
  end
  return throttled
end

local function take(id, depth, fits_share, throttled)
  if generation ~= known then
    return -1
  end
  local wait = 0
  if depth > 0 and new_left > 0 and not fits_share then
    wait = new_left
  end
  for log = 1, depth do
    local over = counts[log] - settings[FIRST_CAP + log - 1 + (throttled > 0 and LOGS or 0)]
    if over >= 0 then  -- one fits again once the grant at this place, oldest first, is a span ago
      local last = redis.call("ZRANGE", KEYS[log], int(over), int(over), "WITHSCORES")
      wait = math.max(wait, tonumber(last[2]) + span - now)
    end
  end
  if wait == 0 then
    enter(id, now_text, depth)
    for log = 1, depth do
      has_new_logs = has_new_logs or counts[log] == 0
      counts[log] = counts[log] + 1
    end
  end
  return wait
end

local reply = {now, generation, new_left}
for id, depth, fits_share, throttle_for in string.gmatch(asks, ASK) do
  local throttled = throttled_after(tonumber(throttle_for))
  reply[#reply + 1] = take(id, tonumber(depth), fits_share == "1", throttled)
  reply[#reply + 1] = throttled
  for log = 1, LOGS do
    reply[#reply + 1] = counts[log]
  end
end

-- Nothing is forgotten that still counts, and the generation outlives two looks of an idle process. Beyond that by 10
-- seconds, so that few asks have to write it, and to Redis's file, and to its replicas. All expire at once.
local least = math.ceil(span / 1000) + 10000
if has_new_logs or redis.call("PTTL", KEYS[LOGS + 1]) < least then
  for key = 1, LOGS + 1 do
    redis.call("PEXPIRE", KEYS[key], int(least + 10000))
  end
end

return reply
