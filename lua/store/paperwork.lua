--- What hangs on an order's moves (store/machines, `jobs`): mails to the buyer, credit notes. Each is enqueued with the
-- move's commit, and looks at the order as it is when it runs.
local config = require "chowk.config"
local jobs = require "chowk.jobs"
local mail = require "chowk.mail"
local pg = require "chowk.pg"
local invoice = require "store.workflows.invoice"
local templates = require "store.mail.order"

local FOR_MAIL = [[
  SELECT o.order_number AS number, o.email, o.shipping_address->>'name' AS name, o.total_paise, o.carrier,
         o.tracking_number, o.payment_status IN ('paid', 'partially_refunded', 'refunded') AS was_paid,
         (SELECT json_agg(json_build_object('name', i.name, 'quantity', i.quantity) ORDER BY i.id)
          FROM order_items i WHERE i.order_id = o.id) AS items
  FROM orders o WHERE o.id = $1::uuid]]

-- A shop without a mail server sends none.
local can_send = config.get "mail.url" ~= nil or config.development

jobs.define("order.mail", { retries = 12 }, function(args)
  local order = can_send and pg.one(FOR_MAIL, args.id)
  if order then mail.send { to = order.email, template = templates[args.move], data = order } end
end)

-- Of what Razorpay says it has given back of an invoiced order; the invoice may come after the refund.
jobs.define("credit_note.issue", { retries = 20 }, function(args) invoice.credit(args.id) end)
