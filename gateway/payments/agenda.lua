-- The agenda of open sessions, and the lease of who sees to those that are due. Each verb is one step.
--
-- KEYS  the agenda and the lease, in one hash slot.
--         agenda  a sorted set: "<created, Unix s>:<session id>", scored by when it is due, in ms of Redis's clock
--         lease   the token of its holder; it ends by itself
-- ARGV  a verb, and (times in milliseconds unless said otherwise):
--   add      created (s), id            Put a session on the agenda, unless it is there or too old.
--   take     token                      Take the lease, if it is free and a session is due. Returns the time, and when
--                                       the oldest of the sessions due was created (s); nothing if not taken.
--   advance  started                    Say when some of the sessions that were due at `started` are due next; those
--                                       that are too old leave the agenda. Returns whether there may be more.
--   hasten                              Have sessions that are due later be due now. Returns whether there may be more.
--   release  token, started             Have the lease, if it is ours, end a `SOONEST` after it began.
--
-- No step takes longer than about ten milliseconds: others wait for Redis meanwhile.

local AGENDA, LEASE = KEYS[1], KEYS[2]
local verb = ARGV[1]

local SOONEST = 10000            -- between two looks at a session, and between two sweeps
local SLOWING = 60               -- an older session is due after this fraction of its age
local LIFETIME = 48 * 3600000    -- after which nobody looks for its payment any more
local LONGEST = LIFETIME / SLOWING
local LEASE_LASTS = 30000
local MOST_TAKEN = 10000         -- sessions that a turn is for
local MOST_MOVED = 1000          -- at once

local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function whole(number)
  return string.format("%.0f", number)
end

local function created_at(member)
  return tonumber(string.match(member, "^(%d+):"))
end

local function due_at(instant, most)
  local members = redis.call("ZRANGEBYSCORE", AGENDA, "-inf", whole(instant), "LIMIT", 0, most)
  -- Due further ahead than any is put: from before the server's clock was set back.
  local ahead = redis.call("ZRANGEBYSCORE", AGENDA, "(" .. whole(now + LONGEST), "+inf", "LIMIT", 0, most)
  for _, member in ipairs(ahead) do
    table.insert(members, member)
  end
  return members
end

if verb == "add" then
  if now - ARGV[2] * 1000 < LIFETIME then
    redis.call("ZADD", AGENDA, "NX", whole(now + SOONEST), ARGV[2] .. ":" .. ARGV[3])
    redis.call("PEXPIRE", AGENDA, LIFETIME + LONGEST)
  end
  return {}
end

if verb == "take" then
  local held = redis.call("PTTL", LEASE)
  if held >= 0 and held <= LEASE_LASTS then
    return {}
  end
  local oldest = nil
  for _, member in ipairs(due_at(now, MOST_TAKEN)) do
    oldest = math.min(oldest or math.huge, created_at(member))
  end
  if not oldest then
    return {}
  end
  redis.call("SET", LEASE, ARGV[2], "PX", LEASE_LASTS)
  return {now, oldest}
end

if verb == "advance" then
  local started = tonumber(ARGV[2])
  local members = due_at(started, MOST_MOVED)
  for _, member in ipairs(members) do
    local created = created_at(member) * 1000
    local ends = created + LIFETIME
    if started >= ends then
      redis.call("ZREM", AGENDA, member)
    else
      local pause = math.max(SOONEST, (started - created) / SLOWING)
      redis.call("ZADD", AGENDA, whole(math.min(started + pause, ends)), member)
    end
  end
  return {#members >= MOST_MOVED and 1 or 0}
end

if verb == "hasten" then
  local members = redis.call("ZRANGEBYSCORE", AGENDA, "(" .. whole(now), "+inf", "LIMIT", 0, MOST_MOVED)
  for _, member in ipairs(members) do
    redis.call("ZADD", AGENDA, whole(now), member)
  end
  return {#members >= MOST_MOVED and 1 or 0}
end

if verb == "release" and redis.call("GET", LEASE) == ARGV[2] then
  local left = ARGV[3] + SOONEST - now
  if left > 0 then
    redis.call("PEXPIRE", LEASE, whole(math.min(left, SOONEST)))
  else
    redis.call("DEL", LEASE)
  end
end
return {}
