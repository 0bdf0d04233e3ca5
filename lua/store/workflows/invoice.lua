--- Invoices and credit notes.
--
-- An invoice is issued when the goods leave: GST asks for it then (CGST section 31), an order that is cancelled before
-- needs no credit note, and what customers wait for, paying, never queues for a number. Numbers have no gaps, so
-- whoever takes one keeps everybody else waiting until his transaction ends: it is the last thing in it.
local pg = require "chowk.pg"

local M = {}

--- Issues the invoice of an order; what follows in the transaction is deferred.
-- @param tx transaction  that has locked the order  @return string  its number. Yields.
function M.issue(tx, order_id)
  local number = tx:gapless "invoice"
  tx:defer { { [[
    INSERT INTO invoices (number, order_id, total_paise, tax_paise)
    SELECT $1, id, total_paise, tax_paise FROM orders WHERE id = $2::uuid]], number, order_id } }
  return number
end

-- A refund of an invoiced order that has no credit note yet, with what was credited before. No more is credited than is
-- missing of the price (orders.refunded_paise): money that came twice and went back once is no part of it. Hence the
-- newest refund first. Tax is split by what has been given back so far, so that the notes of a full refund add up to
-- the invoice's tax.
local UNCREDITED = [[
  SELECT i.number AS invoice, r.id AS refund_id, least(r.amount_paise, o.refunded_paise - c.credited) AS amount_paise,
         i.total_paise, i.tax_paise, c.credited
  FROM invoices i JOIN orders o ON o.id = i.order_id JOIN payments p ON p.order_id = o.id
    JOIN refunds r ON r.payment_id = p.id
    CROSS JOIN LATERAL (
      SELECT coalesce(sum(n.amount_paise), 0)::bigint AS credited FROM credit_notes n WHERE n.invoice = i.number) c
  WHERE i.order_id = $1::uuid AND r.status = 'processed' AND o.refunded_paise > c.credited
    AND NOT EXISTS (SELECT 1 FROM credit_notes n WHERE n.refund_id = r.id)
  ORDER BY r.id DESC LIMIT 1]]
local CREDIT = [[
  INSERT INTO credit_notes (number, invoice, refund_id, amount_paise, tax_paise)
  VALUES ($1, $2, $3, $4::bigint, least($6::bigint, div(($5::numeric + $4) * $6, $7::bigint))
                                - least($6::bigint, div($5::numeric * $6, $7::bigint)))]]

local function credit_one(order_id)
  return pg.tx(function(tx)
    if not tx:lock("orders", order_id) then return false end
    local it = tx:one(UNCREDITED, order_id)
    if not it then return false end
    local number = tx:gapless "credit_note"
    tx:commit { { CREDIT, number, it.invoice, it.refund_id, it.amount_paise, it.credited, it.tax_paise,
      it.total_paise } }
    return true
  end)
end

--- Issues a credit note for each refund of an invoiced order that has none: again, it finds nothing to do.
-- @return integer  how many. Yields.
function M.credit(order_id)
  local n = 0
  while credit_one(order_id) do n = n + 1 end
  return n
end

return M
