-- A session's record, and the index of sessions by reference. Each verb is one step, over one key.
--
-- KEYS  one: a record (a text), or a reference (a sorted set of session ids, scored by when each was made, in Unix s).
-- ARGV  a verb, and:
--   read                             Look at the record.
--   create   record, lives           Store it, for this many milliseconds.
--   replace  expected, record        Store it, if the expected one is there. It ends when that would have ended.
--   enter    id, created, most, lives
--                                    Enter a session under a reference, where the newest `most` stay. The index lives
--                                    for this many milliseconds from now on.
--   list                             Look at the ids under a reference, the oldest first.
-- Returns 1 if something was written, else 0; and what was found: a record, "" for none, or ids. If there is a value of
-- a kind that nobody writes there, it is left alone: -1.

local KEY = KEYS[1]
local verb = ARGV[1]

local KINDS = {read = "string", create = "string", replace = "string", enter = "zset", list = "zset"}

local kind = redis.call("TYPE", KEY).ok
if kind ~= "none" and kind ~= KINDS[verb] then
  return {-1, ""}
end

if verb == "read" then
  return {0, redis.call("GET", KEY) or ""}
end

if verb == "create" then
  redis.call("SET", KEY, ARGV[2], "PX", ARGV[3])
  return {1, ""}
end

if verb == "replace" then
  local current = redis.call("GET", KEY) or ""
  if current ~= ARGV[2] then
    return {0, current}
  end
  redis.call("SET", KEY, ARGV[3], "KEEPTTL")
  return {1, ""}
end

if verb == "enter" then
  redis.call("ZADD", KEY, ARGV[3], ARGV[2])
  local excess = redis.call("ZCARD", KEY) - ARGV[4]
  if excess > 0 then
    redis.call("ZREM", KEY, unpack(redis.call("ZRANGE", KEY, 0, excess - 1)))
  end
  redis.call("PEXPIRE", KEY, ARGV[5])
  return {1, ""}
end

if verb == "list" then
  return {0, redis.call("ZRANGE", KEY, 0, -1)}
end
