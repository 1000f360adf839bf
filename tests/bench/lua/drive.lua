-- Sends one kind of request with wrk, and prints what came of it as one line of JSON.
--
-- Arguments after `--`, each `name=value`:
--   method, path, body        of the request
--   header=Name: value        any number of them
--   start, among              number the requests from `start` on, by the remainder of `among` unless that is 0
--   lines                     a file for `<line>`
--   pause                     ms that a connection rests between an answer and its next request, on average (0: not)
--
-- In path, body and headers `<number>` stands for the request's number, ten digits, `<address>` for an IPv4 address
-- made of it, and `<line>` for a line of the file. Without them every request is the same, and is written only once.

local made = {headers = {}, start = 0, among = 0, pause = 0}
local lines = {}
local count = 0

statuses = {} -- global, so that `done` can ask each thread for it

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

local function numbered(text, number)
  local address = string.format("10.%d.%d.%d", number / 65536 % 256, number / 256 % 256, number % 256)
  local line = lines[number % #lines + 1] -- nil without a file, and then nothing is replaced
  local known = {["<number>"] = string.format("%010d", number), ["<address>"] = address, ["<line>"] = line}
  return (text:gsub("<%a+>", known))
end

local function next_request()
  local number = made.start + count
  if made.among > 0 then
    number = number % made.among
  end
  count = count + 1
  local headers = {}
  for name, value in pairs(made.headers) do
    headers[name] = numbered(value, number)
  end
  return wrk.format(made.method, numbered(made.path, number), headers, made.body and numbered(made.body, number))
end

-- Times between the requests of many independent callers are distributed like this.
local function exponential()
  return -math.log(1 - math.random()) * made.pause
end

function init(arguments)
  local varies = false
  for _, argument in ipairs(arguments) do
    local name, value = argument:match("^(%a+)=(.*)$")
    varies = varies or value:find("<%a+>") ~= nil
    if name == "header" then
      local header, text = value:match("^(.-): (.*)$")
      made.headers[header] = text
    else
      made[name] = tonumber(made[name]) and tonumber(value) or value
    end
  end
  if made.lines then
    for line in io.lines(made.lines) do
      table.insert(lines, line)
    end
  end
  made.headers["Host"] = wrk.headers["Host"]
  if varies then
    request = next_request
  else
    wrk.method, wrk.path, wrk.headers, wrk.body = made.method, made.path, made.headers, made.body
  end
  if made.pause > 0 then
    delay = exponential
  end
end

function response(status)
  statuses[status] = (statuses[status] or 0) + 1
end

function done(summary, latency)
  local total = {}
  for _, thread in ipairs(threads) do
    for status, number in pairs(thread:get("statuses")) do
      total[status] = (total[status] or 0) + number
    end
  end
  local counted = {}
  for status, number in pairs(total) do
    table.insert(counted, string.format('"%d":%d', status, number))
  end
  local errors = summary.errors
  print(string.format(
    '{"requests":%d,"seconds":%.6f,"p50":%.6f,"p99":%.6f,"broken":%d,"statuses":{%s}}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    errors.connect + errors.read + errors.write + errors.timeout, table.concat(counted, ",")
  ))
end
