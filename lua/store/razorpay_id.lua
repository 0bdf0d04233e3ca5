--- Ids in Razorpay's form, for development: until an order is opened with Razorpay, the shop gives it one itself.
local crypto = require "chowk.crypto"

local M = {}

local BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
local LEN = 14

--- @return string  "order_" and 14 characters, each equally likely
function M.order()
  local out = {}
  while #out < LEN do
    for _, byte in ipairs { crypto.random(LEN):byte(1, -1) } do
      -- 248 is the largest multiple of 62 a byte can hold; what is above would favour the first letters.
      if byte < 248 and #out < LEN then
        local i = byte % 62 + 1
        out[#out + 1] = BASE62:sub(i, i)
      end
    end
  end
  return "order_" .. table.concat(out)
end

return M
