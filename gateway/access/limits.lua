-- GCRA over all of a request's limits, in one step: check all, then take all or none (interface §2.3).
--
-- KEYS  one a limit, all in one hash slot; each holds when its limit will be full again ("TAT"), or is absent.
-- ARGV  amount and window (in microseconds) of each key's limit.
-- Returns 1 if taken, else 0; then for each key how far its TAT lies ahead of now, as two integers.
--
-- One request of "amount in window" costs window/amount microseconds, which is rarely whole. So that no rate
-- drifts, a time is kept as "whole/part": whole microseconds plus part/amount of another. Every number stays an
-- integer below 2^53, which is all that Lua's doubles can tell apart; `%.0f` prints them without an exponent.

local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]

local function keep(key, whole, part)
  -- A key that is absent and one whose time has come mean the same, so it may vanish then.
  local ahead = math.ceil((whole + math.min(part, 1) - now) / 1000)
  redis.call("SET", key, string.format("%.0f/%.0f", whole, part), "PX", string.format("%.0f", math.max(ahead, 1)))
end

local before, after = {}, {}
local allowed = 1

for i, key in ipairs(KEYS) do
  local amount, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local whole, part = now, 0
  local stored = redis.call("GET", key)
  if stored then
    local w, p = string.match(stored, "^(%d+)/(%d+)$")
    whole, part = tonumber(w), tonumber(p)
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
  end
  before[i] = {whole, part}

  whole = whole + math.floor(window / amount)
  part = part + window % amount
  if part >= amount then
    whole, part = whole + 1, part - amount
  end
  after[i] = {whole, part}
  if whole > now + window or (whole == now + window and part > 0) then
    allowed = 0
  end
end

local reply = {allowed}
for i, key in ipairs(KEYS) do
  local tat = before[i]
  if allowed == 1 then
    tat = after[i]
    keep(key, tat[1], tat[2])
  end
  reply[2 * i] = tat[1] - now
  reply[2 * i + 1] = tat[2]
end
return reply
