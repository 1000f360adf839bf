-- GCRA over requests and all of their limits, in one step: check all of a request's, then take all or none, then the
-- next request (interface §2.3).
--
-- KEYS  one a limit, all in one hash slot; each holds when its limit will be full again ("TAT"), or is absent.
-- ARGV  one text of integers: for each request the number of its limits; after it for each of them which key it is,
--       amount and window (in microseconds). Two requests may have a limit in common.
-- Returns for each request 1 if taken, else 0; then for each limit how far its TAT lies ahead of now, as two integers.
--
-- One request of "amount in window" costs window/amount microseconds, which is rarely whole. So that no rate
-- drifts, a time is kept as "whole/part": whole microseconds plus part/amount of another. Every number stays an
-- integer below 2^53, which is all that Lua's doubles can tell apart; `%.0f` prints them without an exponent.

local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]

-- TATs by key, read once and written at the end: requests that come at the same time often have one client.
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

-- Returns the TAT before a request and after it, as four numbers.
local function step(key, amount, window)
  local whole, part = read(key)
  if part >= amount then  -- of another amount, before a change of configuration
    whole, part = whole + 1, 0
  end
  if whole < now then
    whole, part = now, 0
  elseif whole > now + window or (whole == now + window and part > 0) then
    -- Further ahead than this limit can get: the clock was set back, or the window was longer. Kept even if
    -- the request is refused, or clients would be locked out until the clock has caught up.
    whole, part = now + window, 0
    keep(key, whole, part)
  end
  local later, rest = whole + math.floor(window / amount), part + window % amount
  if rest >= amount then
    later, rest = later + 1, rest - amount
  end
  return whole, part, later, rest
end

local reply = {}
local numbers = string.gmatch(ARGV[1], "%d+")
for limits in numbers do
  local steps, allowed = {}, 1
  for i = 1, tonumber(limits) do
    local key, amount, window = KEYS[tonumber(numbers())], tonumber(numbers()), tonumber(numbers())
    local whole, part, later, rest = step(key, amount, window)
    steps[i] = {whole, part, later, rest, key}
    if later > now + window or (later == now + window and rest > 0) then
      allowed = 0
    end
  end
  reply[#reply + 1] = allowed
  for _, found in ipairs(steps) do
    local whole, part = found[1], found[2]
    if allowed == 1 then
      whole, part = found[3], found[4]
      keep(found[5], whole, part)
    end
    reply[#reply + 1] = whole - now
    reply[#reply + 1] = part
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
