-- Sends the published example, each time with another event and post, as `load.rs` does.
local example = {example}
local event, post = "67c53595-efc3-46aa-963b-89650bd4bd98", "<twitterId>"
local a, b = example:find(event, 1, true)
local c, d = example:find(post, 1, true)
local first, second, third = example:sub(1, a - 1), example:sub(b + 1, c - 1), example:sub(d + 1)
local headers = {["authorization"] = "Bearer {bearer}", ["content-type"] = "application/json"}
local count, start = 0, os.time() * 1000000000
math.randomseed(os.time())

function request()
  count = count + 1
  local r = math.random
  local id = string.format("%08x-%04x-%04x-%04x-%06x%06x",
    r(0, 0xffffffff), r(0, 0xffff), r(0, 0xffff), r(0, 0xffff), r(0, 0xffffff), r(0, 0xffffff))
  return wrk.format("POST", nil, headers, first .. id .. second .. string.format("%d", start + count) .. third)
end

function done(summary, latency)
  print(string.format("result %f %f %f", summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
