--- The order itself: is it wanted, and is it ours to deliver? Its money and its goods are axes of their own.
-- Jobs of moves, here and there, are defined in store/paperwork.lua.
local machine = require "chowk.machine"

return machine.define {
  name = "order", table = "orders", column = "status",
  events = { table = "order_events", key = "order_id" },
  states = { "pending", "confirmed", "cancelled", "expired" }, initial = "pending",
  moves = {
    confirm = { from = { "pending" }, to = "confirmed", jobs = { "order.mail" } },
    expire = { from = { "pending" }, to = "expired" },
    cancel = { from = { "pending", "confirmed" }, to = "cancelled", jobs = { "order.mail" } },
    -- Its money came late, and the stock is still there.
    revive = { from = { "expired", "cancelled" }, to = "confirmed", jobs = { "order.mail" } },
  },
}
