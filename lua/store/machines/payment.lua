--- An order's money. paid is left only by refunds; a failure is no end: banks say yes after a no.
local machine = require "chowk.machine"

local GIVES_BACK = { "paid", "partially_refunded" }

return machine.define {
  name = "payment", table = "orders", column = "payment_status",
  events = { table = "order_events", key = "order_id" },
  states = { "unpaid", "authorized", "paid", "failed", "partially_refunded", "refunded" }, initial = "unpaid",
  moves = {
    fail = { from = { "unpaid" }, to = "failed" },
    authorize = { from = { "unpaid", "failed" }, to = "authorized" },
    capture = { from = { "unpaid", "authorized", "failed" }, to = "paid" },
    -- Another payment of the same order, whose refund was heard of before: refunded_paise begins anew.
    capture_again = { from = { "partially_refunded", "refunded" }, to = "paid" },
    lapse = { from = { "authorized" }, to = "failed" },   -- never captured; the bank has it back
    refund_part = { from = GIVES_BACK, to = "partially_refunded", jobs = { "credit_note.issue" } },
    refund = { from = GIVES_BACK, to = "refunded", jobs = { "credit_note.issue" } },
  },
}
