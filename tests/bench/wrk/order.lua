-- Three products, never the same three in a row.
local BODY = '{"email":"a%d@example.com","items":['
  .. '{"id":%d,"quantity":1},{"id":%d,"quantity":2},{"id":%d,"quantity":1}]}'
function each(n)
  local body = string.format(BODY, n, n, (n + 333) % 1000 + 1, (n + 666) % 1000 + 1)
  return wrk.format("POST", "/orders", { ["Content-Type"] = "application/json" }, body)
end
