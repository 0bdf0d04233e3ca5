--- Cancelling: the stock is free again, paid money goes back, all in one transaction. A coupon counts as used once its
-- order was paid.
local app = require "chowk.app"
local coupon = require "store.workflows.coupon"
local fulfilment_machine = require "store.machines.fulfilment"
local order_machine = require "store.machines.order"
local refund_request = require "store.workflows.refund_request"
local stock = require "store.workflows.stock"

local M = {}

local WAS_PAID = { paid = true, partially_refunded = true, refunded = true }

-- Money on its way can neither be given back nor be ignored: in a while it is there, or gone.
local function refuse_while_paying(order)
  if order.payment_status == "authorized" then
    app.fail(409, "payment_in_progress", "Its payment is being captured: try again in a while.")
  end
end

--- @param tx transaction  @param order row  locked by store.orders   @param options table {actor, reason?, may_stop?}
--   may_stop: also what is being made ready, though not yet shipped
-- @return nothing; an order that is cancelled stays so
-- Fails with 409 payment_in_progress; raises illegal_transition. Yields.
function M.cancel(tx, order, options)
  if order.order_status == "cancelled" then return end
  refuse_while_paying(order)
  local by = { actor = options.actor, data = { reason = options.reason } }
  if options.may_stop and fulfilment_machine:can(order.fulfilment_status, "stop") then
    tx:all(fulfilment_machine:statements(order.fulfilment_status, order.id, "stop", by))
  else
    fulfilment_machine:expect(order.fulfilment_status, "process")
  end
  local moves = order_machine:statements(order.order_status, order.id, "cancel", by)
  tx:defer { stock.release(order.id) }
  tx:defer(moves)
  if WAS_PAID[order.payment_status] then
    tx:defer(refund_request.everything(tx, order, "cancelled"))
  elseif order.coupon_code then
    tx:defer { coupon.give_back(order.id) }
  end
end

return M
