-- Durable queues: what is taken from one comes back by itself, unless it is finished in time. Each verb is one step.
--
-- KEYS  six a queue, all in one hash slot:
--         due       a sorted set: ids of waiting messages, scored by when each may be taken next
--         since     a sorted set: ids of all waiting messages, scored by when each was put
--         messages  a hash: id → what was put, as it was
--         state     a hash: id → JSON: attempts, group, error, next (the one of its group that waits for it), overtaken
--                   (whether those of its group may go before it)
--         newest    a hash: group → the id that was put last
--         dead      a sorted set: ids that are tried no more, scored by when they were given up
--       `put` takes any number of queues, and after them, if there is one, a hash that knows what was put before.
-- ARGV  a verb, and (times in milliseconds; those stored are of Redis's clock):
--   put     id, message, group, most, subject, digest
--                              Put a message in every queue. `most`: messages that a queue can hold, 0 for any number.
--                              With a subject, only if that hash does not know it. Returns what it says in `PUT`.
--                              It always writes: a `WAIT` behind it covers what an earlier, unconfirmed put wrote.
--   take    most, lease        Take messages that are due. Those not finished within the lease are due again. Of a
--                              group, one that was put later is not due while the one before it is in its first
--                              attempts, and not put off for long.
--   finish  id                 Remove a message.
--   retry   id, lease, delay, error
--                              Have a message that is still ours be due later. Returns whether it was.
--   bury    id, lease, error   Give a message up that is still ours; forget those that died long ago. Returns whether
--                              it was.
--   count                      How many wait, since when the oldest does (0: none), how many are dead, and the time.
--   dead    offset, most       Dead messages, the latest first: id, message, attempts, when it was given up, error.
--   revive  id                 Have a dead message be due now, as if it had never been tried. Returns whether it was.
--   discard id                 Remove a dead message. Returns whether it was there.

local PUT = {put = 1, there = 0, full = -1, known = -2, conflict = -3}
local DUE, SINCE, MESSAGES, STATE, NEWEST, DEAD = 1, 2, 3, 4, 5, 6
local WIDTH = 6

local IN_ORDER = 3       -- attempts for which the next of a group waits
local IN_ORDER_FOR = 60000  -- of a pause between two attempts, the longest for which it does
local FORGOTTEN = 100    -- dead messages, at most, in one step
local LIVES = 90 * 24 * 3600000  -- a dead message; and all keys, from the last time that something was put or given up

local verb = ARGV[1]
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function whole(number)
  return string.format("%.0f", number)
end

local function queue(number)
  local keys = {}
  for i = 1, WIDTH do
    keys[i] = KEYS[(number - 1) * WIDTH + i]
  end
  return keys
end

local function state_of(q, id)
  return cjson.decode(redis.call("HGET", q[STATE], id) or "{}")
end

local function set_state(q, id, state)
  redis.call("HSET", q[STATE], id, cjson.encode(state))
end

-- Have the next of the group be due, if it waits for this one.
local function let_next_go(q, state)
  if state.next then
    redis.call("ZADD", q[DUE], whole(now), state.next)
    state.next = nil
  end
end

local function forget(q, id)
  local state = state_of(q, id)
  local group = state.group
  let_next_go(q, state)
  if group and redis.call("HGET", q[NEWEST], group) == id then
    redis.call("HDEL", q[NEWEST], group)
  end
  redis.call("ZREM", q[DUE], id)
  redis.call("ZREM", q[SINCE], id)
  redis.call("ZREM", q[DEAD], id)
  redis.call("HDEL", q[MESSAGES], id)
  redis.call("HDEL", q[STATE], id)
end

local function keep(keys)
  for _, key in ipairs(keys) do
    redis.call("PEXPIRE", key, whole(LIVES))
  end
end

local function make_due(q, id)
  redis.call("ZADD", q[DUE], whole(now), id)
  redis.call("ZADD", q[SINCE], whole(now), id)
end

local function revive(q, id)
  redis.call("ZREM", q[DEAD], id)
  set_state(q, id, {attempts = 0, group = state_of(q, id).group})
  make_due(q, id)
end

-- Return what there is of the message before in a group, if the next has to wait for it.
local function one_before(q, group)
  local id = redis.call("HGET", q[NEWEST], group)
  if id and redis.call("ZSCORE", q[SINCE], id) then
    local state = state_of(q, id)
    if not state.overtaken then
      return id, state
    end
  end
end

local function put(q, id, message, group)
  if redis.call("HSETNX", q[MESSAGES], id, message) == 0 then
    local is_dead = redis.call("ZSCORE", q[DEAD], id)
    if is_dead then
      revive(q, id)
    end
    keep(q)
    return is_dead and PUT.put or PUT.there
  end
  set_state(q, id, {attempts = 0, group = group ~= "" and group or nil})
  make_due(q, id)
  if group ~= "" then
    local before, state = one_before(q, group)
    if before then
      redis.call("ZREM", q[DUE], id)
      state.next = id
      set_state(q, before, state)
    end
    redis.call("HSET", q[NEWEST], group, id)
  end
  keep(q)
  return PUT.put
end

local function is_ours(q, id, lease)
  local due = redis.call("ZSCORE", q[DUE], id)  -- when the lease ends, of whoever took it last
  return due and tonumber(due) == tonumber(lease)
end

local function note_attempt(q, id, error, may_be_overtaken)
  local state = state_of(q, id)
  state.attempts = state.attempts + 1
  state.error = error
  if may_be_overtaken or state.attempts >= IN_ORDER then
    state.overtaken = true
    let_next_go(q, state)
  end
  set_state(q, id, state)
end

local function is_full(q, most)
  return most > 0 and redis.call("HLEN", q[MESSAGES]) >= most
end

if verb == "put" then
  local id, message, group, most, subject, digest = unpack(ARGV, 2)
  local queues, history = math.floor(#KEYS / WIDTH), KEYS[#KEYS]
  if subject ~= "" then
    local known = redis.call("HGET", history, subject)
    if known then
      keep({history})
      return known == digest and PUT.known or PUT.conflict
    end
  end
  for i = 1, queues do
    if is_full(queue(i), tonumber(most)) then
      return PUT.full
    end
  end
  if subject ~= "" then
    redis.call("HSET", history, subject, digest)
    local is_new = redis.call("HSETNX", history, "id:" .. id, "1") == 1
    keep({history})
    if not is_new then
      return PUT.known
    end
  end
  local result = PUT.put
  for i = 1, queues do
    result = math.min(result, put(queue(i), id, message, group))
  end
  return result
end

local q = queue(1)

if verb == "take" then
  local most, lease = tonumber(ARGV[2]), now + ARGV[3]
  local taken = {}
  for _, id in ipairs(redis.call("ZRANGEBYSCORE", q[DUE], "-inf", whole(now), "LIMIT", 0, most)) do
    redis.call("ZADD", q[DUE], whole(lease), id)
    local since = tonumber(redis.call("ZSCORE", q[SINCE], id))
    local message, state = redis.call("HGET", q[MESSAGES], id), state_of(q, id)
    table.insert(taken, {id, message, state.attempts, since, lease, state.error or ""})
  end
  return {now, taken}
end

if verb == "finish" then
  forget(q, ARGV[2])
  return 1
end

if verb == "retry" then
  local id, lease, delay, error = unpack(ARGV, 2)
  if not is_ours(q, id, lease) then
    return 0
  end
  note_attempt(q, id, error, tonumber(delay) > IN_ORDER_FOR)
  redis.call("ZADD", q[DUE], whole(now + delay), id)
  return 1
end

if verb == "bury" then
  local id, lease, error = unpack(ARGV, 2)
  if not is_ours(q, id, lease) then
    return 0
  end
  note_attempt(q, id, error, true)
  redis.call("ZREM", q[DUE], id)
  redis.call("ZREM", q[SINCE], id)
  redis.call("ZADD", q[DEAD], whole(now), id)
  for _, old in ipairs(redis.call("ZRANGEBYSCORE", q[DEAD], "-inf", whole(now - LIVES), "LIMIT", 0, FORGOTTEN)) do
    forget(q, old)
  end
  keep(q)
  return 1
end

if verb == "count" then
  local oldest = redis.call("ZRANGE", q[SINCE], 0, 0, "WITHSCORES")
  return {redis.call("ZCARD", q[SINCE]), tonumber(oldest[2] or 0), redis.call("ZCARD", q[DEAD]), now}
end

if verb == "dead" then
  local offset, most = tonumber(ARGV[2]), tonumber(ARGV[3])
  local found = redis.call("ZREVRANGE", q[DEAD], offset, offset + most - 1, "WITHSCORES")
  local dead = {}
  for i = 1, #found, 2 do
    local id, state = found[i], state_of(q, found[i])
    table.insert(dead, {id, redis.call("HGET", q[MESSAGES], id), state.attempts, tonumber(found[i + 1]), state.error})
  end
  return dead
end

if verb == "revive" then
  if not redis.call("ZSCORE", q[DEAD], ARGV[2]) then
    return 0
  end
  revive(q, ARGV[2])
  keep(q)
  return 1
end

if verb == "discard" then
  if not redis.call("ZSCORE", q[DEAD], ARGV[2]) then
    return 0
  end
  forget(q, ARGV[2])
  return 1
end
