--- Everything this Razorpay knows, and how it is told to behave. One worker, so plain tables.
local crypto = require "chowk.crypto"
local time = require "chowk.time"

local M = {}

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

local function fresh()
  return {
    orders = {}, payments = {}, refunds = {},   -- by id, and in the order of their birth
    by_receipt = {}, refund_keys = {},
    events = {}, deliveries = {},
    behaviour = { duplicates = 1, delay_ms = 0 },
  }
end

local world = fresh()

--- The world of now: M.get().orders, …
function M.get() return world end
function M.reset() world = fresh() end

--- "order_" and 14 letters and digits, as Razorpay's ids.
function M.id(prefix)
  local id = {}
  for i, byte in ipairs { crypto.random(14):byte(1, 14) } do
    local at = byte % #ALPHABET + 1
    id[i] = ALPHABET:sub(at, at)
  end
  return prefix .. "_" .. table.concat(id)
end

function M.now() return math.floor(time.unix()) end

--- Keeps an entity under its id, newest last.
function M.put(kind, entity)
  local all = world[kind]
  if not all[entity.id] then all[#all + 1] = entity end
  all[entity.id] = entity
  return entity
end

--- Entities of a kind, newest first, that match.
function M.find(kind, matches)
  local out, all = {}, world[kind]
  for i = #all, 1, -1 do
    if matches(all[i]) then out[#out + 1] = all[i] end
  end
  return out
end

return M
