---@meta chowk.razorpay
-- luacheck: ignore 212

---@class chowk.razorpay
local razorpay = { orders = {}, payments = {}, refunds = {} }

---Raises bad_signature. Take order_id from your database, not from the client.
---@param p {order_id: string, payment_id: string, signature: string}
function razorpay.verify_checkout(p) end

---Raises bad_signature. Take subscription_id from your database.
---@param p {payment_id: string, subscription_id: string, signature: string}
function razorpay.verify_subscription(p) end

---Raises bad_signature.
---@param p {payment_link_id: string, reference_id: string, status: string, payment_id: string, signature: string}
function razorpay.verify_payment_link(p) end

---Raises bad_signature.
---@param p {invoice_id: string, receipt: string, status: string, payment_id: string, signature: string}
function razorpay.verify_invoice(p) end

---Raises bad_signature.
---@param raw string req:body()
---@param signature string|nil req:header("X-Razorpay-Signature")
function razorpay.verify_webhook(raw, signature) end

---@class chowk.razorpay.options
---@field timeout? string|number of the whole call, its repetitions included

---Opens an order; the same receipt is the same order. Raises razorpay_error. Yields, as all that follow.
---@param o {amount: integer, currency: string?, receipt: string, notes: table?, payment: table?}
---@param options chowk.razorpay.options|nil
---@return table
function razorpay.orders.create(o, options) end

---@param order_id string
---@param options chowk.razorpay.options|nil
---@return table
function razorpay.orders.fetch(order_id, options) end

---@param receipt string
---@param options chowk.razorpay.options|nil
---@return table|nil
function razorpay.orders.by_receipt(receipt, options) end

---@param order_id string
---@param options chowk.razorpay.options|nil
---@return table[]
function razorpay.orders.payments(order_id, options) end

---@param payment_id string
---@param options chowk.razorpay.options|nil
---@return table
function razorpay.payments.fetch(payment_id, options) end

---@param payment_id string
---@param options chowk.razorpay.options|nil
---@return table[]
function razorpay.payments.refunds(payment_id, options) end

---Captures an authorised payment; a captured one is returned as it is.
---@param payment_id string
---@param amount integer paise, exactly what was authorised
---@param currency string?
---@param options chowk.razorpay.options|nil
---@return table
function razorpay.payments.capture(payment_id, amount, currency, options) end

---Refunds a payment; the same key is the same refund.
---@param payment_id string
---@param o {key: string, amount: integer?, speed: string?, receipt: string?, notes: table?}
---@param options chowk.razorpay.options|nil
---@return table
function razorpay.refunds.create(payment_id, o, options) end

---@param refund_id string
---@param options chowk.razorpay.options|nil
---@return table
function razorpay.refunds.fetch(refund_id, options) end

return razorpay
