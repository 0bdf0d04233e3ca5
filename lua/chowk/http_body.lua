-- What a call sends, made into bytes: part of chowk.http. Private to the library. Nothing here yields.
local crypto = require "chowk.crypto"
local json = require "chowk.json"
local raise = require "chowk.raise"

local misuse = raise.misuse

local M = {}

function M.escape(text)
  return (tostring(text):gsub("[^%w%-%._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

local SCALAR = { string = true, number = true, boolean = true }

local function pair(what, name, value)
  if not SCALAR[type(value)] then
    misuse("%s: %s: expected a string, number, boolean or a list of them, got %s", what, tostring(name), type(value))
  end
  -- json.encode writes a number so that it reads back the same; tostring would not (T15).
  local text = type(value) == "number" and json.encode(value) or tostring(value)
  return M.escape(name) .. "=" .. M.escape(text)
end

-- In the order of names, so that one table always gives one text: signatures depend on it.
local function pairs_text(what, t)
  if type(t) ~= "table" then misuse("%s: expected a table, got %s", what, type(t)) end
  local names, out = {}, {}
  for name in pairs(t) do names[#names + 1] = name end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, name in ipairs(names) do
    local value = t[name]
    if type(value) == "table" then
      for _, one in ipairs(value) do out[#out + 1] = pair(what, name, one) end
    else
      out[#out + 1] = pair(what, name, value)
    end
  end
  return table.concat(out, "&")
end

-- As json.encode has it, which has accepted the value, but objects in the order of names: one table gives one text in
-- every process, as Razorpay wants of a refund that is asked for again under its key.
local function json_text(value)
  if type(value) ~= "table" or next(value) == nil then return json.encode(value) end
  local out = {}
  if value[1] ~= nil then
    for i, item in ipairs(value) do out[i] = json_text(item) end
    return "[" .. table.concat(out, ",") .. "]"
  end
  local names = {}
  for name in pairs(value) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do out[i] = json.encode(name) .. ":" .. json_text(value[name]) end
  return "{" .. table.concat(out, ",") .. "}"
end

local function encode_json(value)
  local text = json.encode(value)   -- says what is wrong with it
  return type(value) == "table" and json_text(value) or text
end

function M.with_query(what, url, query)
  if query == nil then return url end
  local text = pairs_text(what .. ": query", query)
  if text == "" then return url end
  local base, fragment = url:match("^([^#]*)(.*)$")
  return base .. (base:find("?", 1, true) and "&" or "?") .. text .. fragment
end

-- As browsers do it (RFC 7578 4.2, WHATWG): what would end the quoted text is escaped.
local function quoted(text)
  return (text:gsub('[\r\n"]', { ["\r"] = "%0D", ["\n"] = "%0A", ['"'] = "%22" }))
end

local function multipart(what, parts)
  local boundary, out = "chowk-" .. crypto.token(), {}
  if type(parts) ~= "table" or #parts == 0 then misuse("%s: multipart: expected a list of parts", what) end
  for i, part in ipairs(parts) do
    if type(part.name) ~= "string" or type(part.data) ~= "string" then
      misuse("%s: multipart: part %d: expected { name = string, data = string, filename =, type = }", what, i)
    end
    local kind = part.type or (part.filename and "application/octet-stream")
    if kind and kind:find("[%c]") then misuse("%s: multipart: part %d: type holds a control character", what, i) end
    out[#out + 1] = "--" .. boundary .. '\r\nContent-Disposition: form-data; name="' .. quoted(part.name) .. '"'
      .. (part.filename and '; filename="' .. quoted(part.filename) .. '"' or "")
      .. (kind and "\r\nContent-Type: " .. kind or "") .. "\r\n\r\n" .. part.data .. "\r\n"
  end
  out[#out + 1] = "--" .. boundary .. "--\r\n"
  return table.concat(out), "multipart/form-data; boundary=" .. boundary
end

--- @return string|nil body  @return string|nil its type
function M.encode(what, o)
  local n = (o.json ~= nil and 1 or 0) + (o.form and 1 or 0) + (o.multipart and 1 or 0) + (o.body and 1 or 0)
  if n > 1 then misuse("%s: only one of json, form, multipart and body can be sent", what) end
  if o.json ~= nil then return encode_json(o.json), "application/json" end
  if o.form then return pairs_text(what .. ": form", o.form), "application/x-www-form-urlencoded" end
  if o.multipart then return multipart(what, o.multipart) end
  if o.body and type(o.body) ~= "string" then
    misuse("%s: body: expected a string, got %s (json = … and form = … take tables)", what, type(o.body))
  end
  return o.body, nil
end

local UNITS = { [""] = 1, B = 1, KiB = 1024, MiB = 1024 ^ 2, GiB = 1024 ^ 3 }

--- 8388608 or "8MiB" → bytes
function M.size(what, value)
  if type(value) == "number" and value >= 1 and value % 1 == 0 and value <= 2 ^ 40 then return value end
  local number, unit = tostring(value):match("^(%d+)(%a*)$")
  if type(value) ~= "string" or not UNITS[unit] or tonumber(number) < 1 then
    misuse('%s: max_body: expected bytes or "8MiB", got %s', what, tostring(value))
  end
  return tonumber(number) * UNITS[unit]
end

return M
