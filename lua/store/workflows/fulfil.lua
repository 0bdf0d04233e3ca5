--- Goods on their way: taken in hand, shipped with an invoice, delivered, taken back.
local app = require "chowk.app"
local fulfilment = require "store.machines.fulfilment"
local invoice = require "store.workflows.invoice"
local refund_request = require "store.workflows.refund_request"
local stock = require "store.workflows.stock"

local M = {}

-- Nothing is made ready or leaves that is not paid for, or whose money has all gone back or is about to. Yields.
local function must_be_paid(tx, order)
  if order.order_status ~= "confirmed" then
    app.fail(409, "illegal_transition", "The order is not confirmed.", { from = order.status, to = "processing" })
  end
  if order.payment_status ~= "paid" and order.payment_status ~= "partially_refunded" then
    app.fail(409, "not_paid", ("Its payment is %s."):format(order.payment_status))
  end
  if order.total_paise > 0 and refund_request.left(tx, order) <= 0 then
    app.fail(409, "not_paid", "All its money is being given back.")
  end
end

local function move(order, name, options)
  return fulfilment:statements(order.fulfilment_status, order.id, name, options)
end

--- Each takes the transaction, a row locked by store.orders, and who does it. They raise illegal_transition; process
-- and ship fail with 409 not_paid, and yield.

function M.process(tx, order, actor)
  must_be_paid(tx, order)
  tx:defer(move(order, "process", { actor = actor }))
end

--- The goods leave the stock, and the invoice is issued. The sequence is everyone's: order, SKUs, invoice number.
-- @param parcel table {carrier, tracking_number?}  @return string  the invoice's number. Yields.
function M.ship(tx, order, actor, parcel)
  must_be_paid(tx, order)
  local list = move(order, "ship", { actor = actor, data = parcel, set = parcel })
  list[#list + 1] = stock.ship(order.id)
  tx:all(list)
  return invoice.issue(tx, order.id)
end

function M.deliver(tx, order, actor)
  tx:defer(move(order, "deliver", { actor = actor }))
end

--- @param restock boolean  whether the goods can be sold again
function M.take_back(tx, order, actor, restock)
  if restock then tx:defer { stock.restock(order.id) } end
  tx:defer(move(order, "take_back", { actor = actor, data = { restock = restock } }))
end

return M
