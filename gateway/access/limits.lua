-- GCRA over requests and all of their limits, in one step: check all of a request's, then take all or none, then the
-- next request (interface §2.3).
--
-- KEYS  one a limit, all in one hash slot; each holds when its limit will be full again ("TAT"), or is absent.
-- ARGV  one JSON array of integers: for each kind of request how many of it there are, how many more to take in
--       advance, and the number of their limits; after it for each of these which key it is, amount and window (in
--       microseconds). Two kinds may have one in common.
-- Returns for each kind how many were taken, which are the first ones, and with those in advance, all of them or none:
--       they must leave nine tenths of each limit. Then for each limit how far its TAT lay ahead of now before the
--       first, as two integers. Each that was taken moved it ahead by window/amount.
--
-- One request of "amount in window" costs window/amount microseconds, which is rarely whole. So that no rate
-- drifts, a time is kept as "whole/part": whole microseconds plus part/amount of another. Every number stays an
-- integer below 2^53, which is all that Lua's doubles can tell apart; `%.0f` prints them without an exponent.
--
-- Many clients at once are many kinds, so everything about a limit lies in arrays: 12 µs a kind where a table for each
-- limit and each TAT takes 20.

local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
local numbers = cjson.decode(ARGV[1])
local floor = math.floor

-- TATs by their key's number, read once and written at the end: two kinds often have the client in common.
local wholes, parts, changed = {}, {}, {}
for at, key in ipairs(KEYS) do
  -- Absent, or a text not of our making: a full limit either way, so that one such key fails nobody else's request. A
  -- key of another type fails all that ask together: only somebody else in this database makes one.
  local whole, part = string.match(redis.call("GET", key) or "", "^(%d+)/(%d+)$")
  wholes[at], parts[at] = tonumber(whole or now), tonumber(part or 0)
end

local function is_beyond(whole, part, latest)
  return whole > latest or (whole == latest and part > 0)
end

-- Moves a limit's TAT to where it may be now.
local function catch_up(at, amount, window)
  if parts[at] >= amount then  -- of another amount, before a change of configuration
    wholes[at], parts[at] = wholes[at] + 1, 0
  end
  if wholes[at] < now then
    wholes[at], parts[at] = now, 0
  elseif is_beyond(wholes[at], parts[at], now + window) then
    -- Further ahead than this limit can get: the clock was set back, or the window was longer. Kept even if
    -- the request is refused, or clients would be locked out until the clock has caught up.
    wholes[at], parts[at], changed[at] = now + window, 0, true
  end
end

local ALL, IN_ADVANCE = 1, 0.1  -- the share of a limit that may be spent by those who ask, and by who may never come
local later, later_parts = {}, {}

-- Takes so many of each limit in `numbers` from `first` to `last` and returns true, or leaves all as they are, if that
-- spent more than `share` of one.
local function take(first, last, many, share)
  for i = first, last, 3 do
    local at, amount, window = numbers[i], numbers[i + 1], numbers[i + 2]
    local part = parts[at] + many * (window % amount)
    local carried = floor(part / amount)
    later[at], later_parts[at] = wholes[at] + many * floor(window / amount) + carried, part - carried * amount
    if is_beyond(later[at], later_parts[at], now + window * share) then
      return false
    end
  end
  for i = first, last, 3 do
    local at = numbers[i]
    wholes[at], parts[at], changed[at] = later[at], later_parts[at], true
  end
  return true
end

local reply, size, i = {}, 0, 1
while numbers[i] do
  local count, in_advance, first, last = numbers[i], numbers[i + 1], i + 3, i + 2 + 3 * numbers[i + 2]
  size = size + 1
  local answer = size
  reply[answer] = 0
  for j = first, last, 3 do
    local at = numbers[j]
    catch_up(at, numbers[j + 1], numbers[j + 2])
    reply[size + 1], reply[size + 2] = wholes[at] - now, parts[at]
    size = size + 2
  end
  if take(first, last, count, ALL) then
    local is_given = in_advance > 0 and take(first, last, in_advance, IN_ADVANCE)
    reply[answer] = is_given and count + in_advance or count
  else
    while take(first, last, 1, ALL) do
      reply[answer] = reply[answer] + 1
    end
  end
  i = last + 1
end

for at in pairs(changed) do
  -- A key that is absent and one whose time has come mean the same, so it may vanish then.
  local ahead = math.ceil((wholes[at] + math.min(parts[at], 1) - now) / 1000)
  redis.call("SET", KEYS[at], string.format("%.0f/%.0f", wholes[at], parts[at]), "PX", math.max(ahead, 1))
end
return reply
