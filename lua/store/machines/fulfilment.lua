--- An order's goods. They move for confirmed orders only; the table checks that, too.
local machine = require "chowk.machine"

return machine.define {
  name = "fulfilment", table = "orders", column = "fulfilment_status",
  events = { table = "order_events", key = "order_id" },
  states = { "unfulfilled", "processing", "shipped", "delivered", "returned" }, initial = "unfulfilled",
  moves = {
    process = { from = { "unfulfilled" }, to = "processing" },
    stop = { from = { "processing" }, to = "unfulfilled" },   -- back into the hands of who may cancel it
    ship = { from = { "processing" }, to = "shipped", jobs = { "order.mail", "credit_note.issue" } },
    deliver = { from = { "shipped" }, to = "delivered" },
    take_back = { from = { "shipped", "delivered" }, to = "returned" },
  },
}
