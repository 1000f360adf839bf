-- One answer that all replicas share, and the lease of who fetches the next one. Each verb is one step.
--
-- KEYS  the entry and the lease, in one hash slot. Both always end by themselves.
-- ARGV  a verb, the token of who asks, and (times in milliseconds):
--   look   wanted, lease       Return the entry. If it is not fresh for who wants answers younger than `wanted`,
--                              take the lease for `lease` if it is free (0: do not).
--   renew  lease               Hold the lease for `lease` from now, if it is ours.
--   keep   asked, took, fresh, stale, value
--                              Write what was asked for at `asked` (as `look` told the time) and took `took`, and
--                              free the lease.
--   free                       Free the lease, if it is ours.
--
-- An entry is "qpg1 <asked> <fresh> <stale>\n<value>" and ends when it is no longer fresh and then too stale. So
-- its age is told by how long it has left, on Redis's clock alone.

local ENTRY, LEASE = KEYS[1], KEYS[2]
local verb, token = ARGV[1], ARGV[2]

local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function whole(number)
  return string.format("%.0f", number)
end

-- Returns nil for what is absent or not ours. That includes an entry with more to live than it was given: the clock
-- was set back, and its age is unknown.
local function stored()
  local text = redis.pcall("GET", ENTRY)
  if type(text) ~= "string" then
    return nil
  end
  local asked, fresh, stale, start = string.match(text, "^qpg1 (%d+) (%d+) (%d+)\n()")
  if not asked then
    return nil
  end
  asked, fresh, stale = tonumber(asked), tonumber(fresh), tonumber(stale)
  local left = redis.call("PTTL", ENTRY)
  if left < 0 or left > fresh + stale then
    return nil
  end
  return {asked = asked, age = fresh + stale - left, fresh = fresh, stale = stale, value = string.sub(text, start)}
end

local function take_lease(lasts)
  local left = redis.call("PTTL", LEASE)
  if left >= 0 and left <= lasts then
    return false
  end
  -- It is free; or it has no end, or one further off than a lease lasts (the clock was set back): nobody's.
  redis.call("SET", LEASE, token, "PX", whole(lasts))
  return true
end

local function is_ours()
  return redis.pcall("GET", LEASE) == token
end

if verb == "look" then
  local wanted, lasts = tonumber(ARGV[3]), tonumber(ARGV[4])
  local entry = stored()
  local fresh = false
  if entry then
    -- No stale time marks a value with a lifetime of its own, whatever is wanted.
    fresh = entry.age < (entry.stale == 0 and entry.fresh or math.min(entry.fresh, wanted))
  end
  local leased = not fresh and lasts > 0 and take_lease(lasts)
  local reply = {now, fresh and 1 or 0, leased and 1 or 0}
  if entry then
    for _, part in ipairs({entry.asked, entry.age, entry.fresh, entry.stale, entry.value}) do
      table.insert(reply, part)
    end
  end
  return reply
end

if verb == "renew" and is_ours() then
  redis.call("PEXPIRE", LEASE, ARGV[3])
end

if verb == "keep" then
  local asked, took, fresh, stale = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
  -- Its time runs from the end of its fetch, also if this command comes late.
  local left = math.min(asked + took - now, 0) + fresh + stale
  local old = stored()
  -- Kept even if the lease was lost: it cost a call, and others may be waiting for it. But whoever has the lease now
  -- asked later, and what was asked for later stays. One from the future is from before the clock was set back.
  local is_newer_there = old and old.asked > asked and old.asked <= now
  if left > 0 and not is_newer_there then
    redis.call("SET", ENTRY, "qpg1 " .. whole(asked) .. " " .. whole(fresh) .. " " .. whole(stale) .. "\n" .. ARGV[7],
      "PX", whole(left))
  end
end

if (verb == "keep" or verb == "free") and is_ours() then
  redis.call("DEL", LEASE)
end
return {}
