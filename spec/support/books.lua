-- What the books of the shop must say in the end, down to the paisa; each order is one line of goods.
--
--   local books = require("spec.support.books").open(s, sandbox, { [sku] = pieces })   -- the stock, from now on
--   books:expect(order, { axes = "confirmed/refunded/shipped", gone = "sold", refunds = { 0.25, 0.75 }, events = "…" })
--   books:are_exact()   waits until nothing is under way; then orders, payments, refunds, papers, events and stock are
--                       what was expected, numbers have no gap, and Razorpay (the sandbox) has the same money
--
-- An order is { number, total_paise, sku, quantity }; an entry
--   axes      "order/payment/fulfilment"
--   events    of the order, but for placing it and what may come twice or not at all
--   held      its goods are reserved           gone      they left the house: "sold", or "returned" and restocked
--   refunds   what went back, in shares of the total, ascending           failed    what should have gone back
--   by_hand   which of these shares went back outside Razorpay, in all
local assert = require "luassert"
local server = require "spec.support.server"

local M = {}
local Books = {}
Books.__index = Books

local ROWS = [[
  SELECT o.order_number AS number, o.total_paise, o.status || '/' || o.payment_status || '/' || o.fulfilment_status
      AS axes, o.refunded_paise AS refunded,
    (SELECT coalesce(string_agg(p.status, ' '), '') FROM payments p WHERE p.order_id = o.id) AS payments,
    (SELECT coalesce(string_agg(r.status || ' ' || r.amount_paise, ', ' ORDER BY r.status, r.amount_paise), '')
     FROM refunds r JOIN payments p ON p.id = r.payment_id WHERE p.order_id = o.id) AS refunds,
    (SELECT i.total_paise FROM invoices i WHERE i.order_id = o.id) AS invoiced,
    (SELECT coalesce(string_agg(n.amount_paise::text, ' ' ORDER BY n.amount_paise), '') FROM credit_notes n
     JOIN invoices i ON i.number = n.invoice WHERE i.order_id = o.id) AS credited,
    (SELECT string_agg(e.type, ' ' ORDER BY e.id) FROM order_events e WHERE e.order_id = o.id
     AND e.type NOT IN ('order.place', 'payment.authorize', 'payment.ignore')) AS events
  FROM orders o]]

-- The notes of a full refund add up to the invoice's tax.
local WRONG_TAX = [[
  SELECT i.number, i.tax_paise, sum(n.tax_paise) AS credited
  FROM invoices i JOIN credit_notes n ON n.invoice = i.number
  GROUP BY i.number HAVING sum(n.amount_paise) = i.total_paise AND sum(n.tax_paise) <> i.tax_paise]]

local UNDER_WAY = [[
  SELECT 1 FROM jobs WHERE state <> 'completed' UNION ALL
  SELECT 1 FROM webhook_events WHERE processed_at IS NULL UNION ALL
  SELECT 1 FROM refunds WHERE status IN ('requested', 'pending') UNION ALL
  SELECT 1 FROM cache_forget]]

--- @param stock table  sku → pieces, none of them reserved
function M.open(s, sandbox, stock)
  for sku, n in pairs(stock) do
    s:exec(("UPDATE inventory SET track = true, on_hand = %d, reserved = 0 WHERE sku = '%s'"):format(n, sku))
  end
  return setmetatable({ s = s, sandbox = sandbox, stock = stock, entries = {}, n = 0 }, Books)
end

function Books:expect(order, entry)
  self.n = self.n + 1
  self.entries[order.number] = { order = order, axes = entry.axes, events = entry.events, held = entry.held,
    gone = entry.gone, refunds = entry.refunds or {}, failed = entry.failed or {}, by_hand = entry.by_hand or 0 }
end

local function add_shares(list, total, shares, status)
  local sum = 0
  for _, share in ipairs(shares) do
    sum = sum + total * share
    list[#list + 1] = status .. ("%d"):format(total * share)
  end
  return sum
end

-- The row of ROWS that an entry stands for.
local function row_of(number, entry)
  local total, refunds, credited = entry.order.total_paise, {}, {}
  add_shares(refunds, total, entry.failed, "failed ")
  local back = add_shares(refunds, total, entry.refunds, "processed ")
  if entry.gone then add_shares(credited, total, entry.refunds, "") end
  return { number = number, total_paise = total, axes = entry.axes, refunded = back, events = entry.events,
    payments = entry.axes:find "/unpaid/" and "" or back - total * entry.by_hand == total and "refunded" or "captured",
    refunds = table.concat(refunds, ", "), invoiced = entry.gone and total, credited = table.concat(credited, " ") }
end

function Books:orders_are_exact()
  local found = self.s:sql(ROWS)
  assert.equal(self.n, #found)
  for _, row in ipairs(found) do assert.same(row_of(row.number, self.entries[row.number]), row) end
end

function Books:stock_is_exact()
  local left = {}
  for sku, n in pairs(self.stock) do left[sku] = { sku = sku, on_hand = n, reserved = 0 } end
  for _, entry in pairs(self.entries) do
    local row, n = left[entry.order.sku], entry.order.quantity
    if entry.held then row.reserved = row.reserved + n end
    if entry.gone == "sold" then row.on_hand = row.on_hand - n end
  end
  for sku, row in pairs(left) do
    assert.same(row, self.s:sql("SELECT sku, on_hand, reserved FROM inventory WHERE sku = '" .. sku .. "'")[1])
  end
end

local function lines_of(rows)
  local lines = {}
  for i, row in ipairs(rows) do lines[i] = ("%s %s %d"):format(row.id, row.status, row.amount) end
  table.sort(lines)
  return lines
end

--- @param kind string  payments, refunds
function Books:agree_with_razorpay(kind)
  local ours = ("SELECT razorpay_%s_id AS id, status, amount_paise AS amount FROM %s"):format(kind:sub(1, -2), kind)
  if kind == "refunds" then ours = ours .. " WHERE razorpay_refund_id IS NOT NULL" end   -- others are made by hand
  assert.same(lines_of(self.sandbox:get("/sandbox/" .. kind).json.items), lines_of(self.s:sql(ours)))
end

--- @param series string  the table of a year's numbers
function Books:have_no_gap(series)
  local row = self.s:sql("SELECT count(*) AS n, coalesce(max(right(number, 6))::int, 0) AS last FROM " .. series)[1]
  assert.equal(row.n, row.last, series)
end

function Books:are_exact()
  server.eventually("nothing is under way", function() return #self.s:sql(UNDER_WAY) == 0 end, 40)
  self:orders_are_exact()
  self:stock_is_exact()
  self:agree_with_razorpay "payments"
  self:agree_with_razorpay "refunds"
  self:have_no_gap "invoices"
  self:have_no_gap "credit_notes"
  assert.same({}, self.s:sql(WRONG_TAX))
end

return M
