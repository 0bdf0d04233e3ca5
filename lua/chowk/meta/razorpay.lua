---@meta chowk.razorpay
-- luacheck: ignore 212

---@class chowk.razorpay
local razorpay = {}

---Raises bad_signature. Take order_id from your database, not from the client.
---@param p {order_id: string, payment_id: string, signature: string}
function razorpay.verify_checkout(p) end

---Raises bad_signature.
---@param raw string req:body()
---@param signature string|nil req:header("X-Razorpay-Signature")
function razorpay.verify_webhook(raw, signature) end

return razorpay
