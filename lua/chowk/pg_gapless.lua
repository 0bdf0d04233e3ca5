-- tx:gapless: numbers without gaps, as GST wants them of invoices and credit notes (CGST rule 46). Private to chowk.pg.
--
-- The number is counted by an update of its series' row in the caller's own transaction: undone with it, and visible
-- only with it. So everybody else who wants one waits until this transaction has ended: take it last.
local seq = require "chowk.core.seq"
local raise = require "chowk.raise"

--- @param tx transaction  @param series string  "invoice", or "invoice/2026-27" for a period that has ended
-- @return string  in its format  Yields.
return function(tx, series)
  if type(series) ~= "string" then raise.misuse("tx:gapless: expected the name of a sequence, got %s", type(series)) end
  local name, period = series:match("^([^/]+)/(.+)$")
  name = name or series
  period = period or seq.period(name)
  raise.settle(seq.write(name, period, 1)) -- a wrong period is said before anything is counted
  return raise.settle(seq.write(name, period, tx:value("SELECT get_next_order_sequence($1, $2, 1)", name, period)))
end
