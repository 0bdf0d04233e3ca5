-- tx:gapless: numbers without gaps, as GST wants them of invoices and credit notes (CGST rule 46). Private to chowk.pg.
--
-- The number is counted by an update of its series' row in the caller's own transaction: undone with it, and visible
-- only with it. So everybody else who wants one waits until this transaction has ended: it is taken last, and what
-- would wait for a round trip afterwards is refused. Statements that carry the number travel with the commit.
local seq = require "chowk.core.seq"
local raise = require "chowk.raise"

local M = {}

local function count(value, tx, series)
  if type(series) ~= "string" then raise.misuse("tx:gapless: expected the name of a sequence, got %s", type(series)) end
  local name, period = series:match("^([^/]+)/(.+)$")
  name = name or series
  period = period or seq.period(name)
  raise.settle(seq.write(name, period, 1)) -- a wrong period is said before anything is counted
  return raise.settle(seq.write(name, period, value(tx, "SELECT get_next_order_sequence($1, $2, 1)", name, period)))
end

local AFTERWARDS = {}
for _, name in ipairs { "query", "one", "value", "exec", "json", "json_one", "all", "page", "lock", "advisory",
  "savepoint", "enqueue" } do
  AFTERWARDS[name] = function()
    raise.misuse("tx:%s behind tx:gapless: everybody else waits for this transaction: take the number last, and write "
      .. "what follows with tx:defer or tx:commit", name)
  end
end

--- Adds tx:gapless. @param Tx table  the methods of transactions
function M.setup(Tx)
  --- The next number of a series without gaps, in its format: tx:gapless("invoice") → "INV2627/000042".
  -- @param series string  a key of seq.gapless; "invoice/2025-26" counts in a period that has ended
  -- @return string  Whoever else wants one waits until this transaction ends, so it comes last: afterwards there are
  --   tx:defer, tx:commit and further numbers only. Undone with the transaction.
  -- @raise invalid (the format has no room for more), pg_error; misuse for a series that is not configured. Yields.
  function Tx:gapless(series)
    local number = count(Tx.value, self, series)
    for name, refuse in pairs(AFTERWARDS) do self[name] = refuse end
    return number
  end
end

--- A number that was taken behind a savepoint is given back with it.
function M.undo(tx)
  for name in pairs(AFTERWARDS) do tx[name] = nil end
end

return M
