--- The order itself: is it wanted, and is it ours to deliver? Its money and its goods are axes of their own.
local machine = require "chowk.machine"

return machine.define {
  name = "order", table = "orders", column = "status",
  events = { table = "order_events", key = "order_id" },
  states = { "pending", "confirmed", "cancelled", "expired" }, initial = "pending",
  moves = {
    confirm = { from = { "pending" }, to = "confirmed" },
    expire = { from = { "pending" }, to = "expired" },
    cancel = { from = { "pending", "confirmed" }, to = "cancelled" },
    revive = { from = { "expired", "cancelled" }, to = "confirmed" },   -- its money came late; the stock is there
  },
}
