-- As order.lua, each under a key of its own, also among the runs.
local BODY = '{"email":"a%d@example.com","items":['
  .. '{"id":%d,"quantity":1},{"id":%d,"quantity":2},{"id":%d,"quantity":1}]}'
local n, run = 0, tostring(os.time()) .. "-" .. tostring({}):match("%x+$")
function request()
  n = n + 1
  local id = n % 1000 + 1
  local body = string.format(BODY, id, id, (id + 333) % 1000 + 1, (id + 666) % 1000 + 1)
  return wrk.format("POST", "/orders-once",
    { ["Content-Type"] = "application/json", ["Idempotency-Key"] = "bench-" .. run .. "-" .. n }, body)
end
