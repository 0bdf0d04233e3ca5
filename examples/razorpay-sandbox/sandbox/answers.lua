--- What every answer of /v1 has in common: authentication, the faults of the day, errors, collections.
local crypto = require "chowk.crypto"
local json = require "chowk.json"
local settings = require "chowk.config".settings
local task = require "chowk.task"
local world = require "sandbox.world"

local M = {}

--- An error in Razorpay's envelope, to be returned by a handler.
function M.refusal(status, description, field)
  return status, { error = {
    code = status >= 500 and "SERVER_ERROR" or "BAD_REQUEST_ERROR", description = description,
    source = "business", step = "payment_initiation", reason = "input_validation_failed",
    metadata = {}, field = field or json.null,
  } }
end

function M.missing() return M.refusal(400, "The id provided does not exist") end

-- ---- collections --------------------------------------------------------------------------------------------

local PAGING = { from = { 0, 2 ^ 32 }, to = { 0, 2 ^ 32 }, count = { 1, 100 }, skip = { 0, 2 ^ 31 } }

local function read_paging(query)
  local paging = { from = 0, to = 2 ^ 32, count = 10, skip = 0 }
  for name, range in pairs(PAGING) do
    local n = tonumber(query[name] or paging[name])
    if not n or n % 1 ~= 0 then return nil, "The " .. name .. " must be an integer.", name end
    if n < range[1] or n > range[2] then
      return nil, ("The %s must be between %d and %d."):format(name, range[1], range[2]), name
    end
    paging[name] = n
  end
  return paging
end

--- A page of what matches, newest first, as from, to, count and skip ask.
function M.collection(req, kind, matches)
  local paging, problem, field = read_paging(req.query)
  if not paging then return M.refusal(400, problem, field) end
  local items, n = {}, 0
  for _, entity in ipairs(world.find(kind, matches)) do
    if entity.created_at >= paging.from and entity.created_at <= paging.to then
      n = n + 1
      if n > paging.skip and #items < paging.count then items[#items + 1] = entity end
    end
  end
  return { entity = "collection", count = #items, items = json.array(items) }
end

--- Was `?expand[]=name` asked for?
function M.expands(req, name)
  local asked = req.query["expand[]"]
  if type(asked) ~= "table" then return asked == name end
  for _, each in ipairs(asked) do
    if each == name then return true end
  end
  return false
end

-- ---- bodies -------------------------------------------------------------------------------------------------

--- The decoded body: an object with no other fields than these. Without a body, {}.
-- @return table; or nil, description, field
function M.body(req, fields)
  if #req:body() == 0 then return {} end
  local body = req:json()
  if type(body) ~= "table" or body[1] ~= nil then return nil, "The request body is not a JSON object." end
  for name in pairs(body) do
    if not fields[name] then return nil, name .. " is/are not required and should not be sent", name end
  end
  local problem = M.check_notes(body.notes)
  if problem then return nil, problem, "notes" end
  return body
end

function M.check_notes(notes)
  if notes == nil or notes == json.null then return nil end
  if type(notes) ~= "table" then return "The notes must be an array." end
  local n = 0
  for _, value in pairs(notes) do
    n = n + 1
    if #tostring(value) > 256 then return "The notes may not be longer than 256 characters." end
  end
  if n > 15 then return "The notes may not have more than 15 items." end
end

--- Notes as Razorpay writes them: {} with something in it, [] with nothing.
function M.notes(notes)
  if type(notes) ~= "table" or next(notes) == nil then return json.array {} end
  return notes
end

--- PATCH of an entity: its notes, and nothing else.
function M.patch(kind)
  return M.guarded(function(req)
    local entity = world.get()[kind][req.params.id]
    if not entity then return M.missing() end
    local body, problem, field = M.body(req, { notes = true })
    if not body then return M.refusal(400, problem, field) end
    if body.notes == nil then return M.refusal(400, "notes: is required.", "notes") end
    entity.notes = M.notes(body.notes)
    return entity
  end)
end

-- ---- who asks, and the faults of the day --------------------------------------------------------------------

local HANG_S = 100

local function next_fault(req)
  local fault = world.get().behaviour.fail
  if not fault or fault.times < 1 or not req.path:find(fault.path, 1, true) then return nil end
  if fault.method and fault.method ~= req.method then return nil end
  fault.times = fault.times - 1
  return fault.how
end

local function is_authorized(req)
  local expected = "Basic " .. crypto.base64(settings.key_id .. ":" .. settings.key_secret)
  return crypto.equal(req:header "Authorization" or "", expected)
end

local function answer_late(...)
  task.sleep(HANG_S)
  return ...
end

local FAULTS = {
  ["400"] = function() return M.refusal(400, "Your account does not have enough balance to carry out the refund.") end,
  ["500"] = function() return M.refusal(500, "We are facing some trouble completing your request at the moment.") end,
  ["429"] = function() return M.refusal(429, "Too many requests") end,
  hang = function() return answer_late(M.refusal(504, "too late")) end,
  lost = function(req, handler) return answer_late(handler(req)) end,
}

--- A handler behind authentication and the faults that were asked for.
function M.guarded(handler)
  return function(req)
    if not is_authorized(req) then return M.refusal(401, "Authentication failed") end
    local fault = FAULTS[next_fault(req)]
    if fault then return fault(req, handler) end
    return handler(req)
  end
end

return M
