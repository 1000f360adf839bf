-- GCRA over requests and all of their limits, in one step: check all of a request's, then take all or none, then the
-- next request (interface §2.3).
--
-- KEYS  one a limit, all in one hash slot; each holds when its limit will be full again ("TAT"), or is absent.
-- ARGV  one text of integers: for each kind of request how many of it there are, how many more to take in advance, and
--       the number of their limits; after it for each of these which key it is, amount and window (in microseconds). Two
--       kinds may have one in common.
-- Returns for each kind how many were taken, which are the first ones, and with those in advance, all of them or none:
--       they must leave nine tenths of each limit. Then for each limit how far its TAT lay ahead of now before the
--       first, as two integers. Each that was taken moved it ahead by window/amount.
--
-- One request of "amount in window" costs window/amount microseconds, which is rarely whole. So that no rate
-- drifts, a time is kept as "whole/part": whole microseconds plus part/amount of another. Every number stays an
-- integer below 2^53, which is all that Lua's doubles can tell apart; `%.0f` prints them without an exponent.

local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]

-- TATs by key, read once and written at the end: two kinds of requests often have the client in common.
local tats, changed = {}, {}

local function read(key)
  if not tats[key] then
    -- Absent, or not of our making: a full limit either way, so that one broken key fails nobody else's request.
    local whole, part = string.match(redis.call("GET", key) or "", "^(%d+)/(%d+)$")
    tats[key] = {tonumber(whole or now), tonumber(part or 0)}
  end
  return tats[key][1], tats[key][2]
end

local function keep(key, whole, part)
  tats[key] = {whole, part}
  changed[key] = true
end

local function is_beyond(limit, whole, part, span)
  local latest = now + span
  return whole > latest or (whole == latest and part > 0)
end

-- Returns a limit's TAT as it may be now.
local function current(limit)
  local whole, part = read(limit.key)
  if part >= limit.amount then  -- of another amount, before a change of configuration
    whole, part = whole + 1, 0
  end
  if whole < now then
    return now, 0
  end
  if is_beyond(limit, whole, part, limit.window) then
    -- Further ahead than this limit can get: the clock was set back, or the window was longer. Kept even if
    -- the request is refused, or clients would be locked out until the clock has caught up.
    whole, part = now + limit.window, 0
    keep(limit.key, whole, part)
  end
  return whole, part
end

local ALL, IN_ADVANCE = 1, 0.1  -- the share of a limit that may be spent by those who ask, and by who may never come

-- Takes so many of each limit and returns true, or leaves all as they are, if that spent more than `share` of one.
local function take(limits, many, share)
  for _, limit in ipairs(limits) do
    local part = limit.part + many * limit.rest
    local carried = math.floor(part / limit.amount)
    limit.later, limit.later_part = limit.whole + many * limit.step + carried, part - carried * limit.amount
    if is_beyond(limit, limit.later, limit.later_part, limit.window * share) then
      return false
    end
  end
  for _, limit in ipairs(limits) do
    limit.whole, limit.part = limit.later, limit.later_part
  end
  return true
end

local reply = {}
local numbers = string.gmatch(ARGV[1], "%d+")
for number in numbers do
  local count, in_advance, limits, taken, at = tonumber(number), tonumber(numbers()), {}, 0, #reply + 1
  for i = 1, tonumber(numbers()) do
    local limit = {key = KEYS[tonumber(numbers())], amount = tonumber(numbers()), window = tonumber(numbers())}
    limit.step, limit.rest = math.floor(limit.window / limit.amount), limit.window % limit.amount
    limit.whole, limit.part = current(limit)
    reply[at + 2 * i - 1], reply[at + 2 * i] = limit.whole - now, limit.part
    limits[i] = limit
  end
  if take(limits, count, ALL) then
    taken = count
    if in_advance > 0 and take(limits, in_advance, IN_ADVANCE) then
      taken = taken + in_advance
    end
  else
    while take(limits, 1, ALL) do
      taken = taken + 1
    end
  end
  reply[at] = taken
  if taken > 0 then
    for _, limit in ipairs(limits) do
      keep(limit.key, limit.whole, limit.part)
    end
  end
end

for changed_key in pairs(changed) do
  local whole, part = tats[changed_key][1], tats[changed_key][2]
  -- A key that is absent and one whose time has come mean the same, so it may vanish then.
  local ahead = math.ceil((whole + math.min(part, 1) - now) / 1000)
  local stored = string.format("%.0f/%.0f", whole, part)
  redis.call("SET", changed_key, stored, "PX", string.format("%.0f", math.max(ahead, 1)))
end
return reply
