-- A mail's text from its parts: RFC 5322 header, MIME (RFC 2045–2047, 2183, 2231). Part of chowk.mail, private to the
-- library. Nothing here yields.
--
-- Every body part is encoded, as quoted-printable or base64, so that lines are short and ASCII, end in CRLF, and
-- nothing on the way changes a byte. Nothing a caller gives can end a header line: control characters are refused, and
-- what is not plain ASCII is encoded.
local crypto = require "chowk.crypto"
local raise = require "chowk.raise"
local time = require "chowk.time"

local misuse = raise.misuse

local M = {}

local function text_of(what, value)
  if type(value) ~= "string" then misuse("mail: %s: expected a string, got %s", what, type(value)) end
  return value
end

local function line_of(what, value)
  if text_of(what, value):find("%c") then misuse("mail: %s holds a line break or a control character", what) end
  return value
end

-- ---- header -------------------------------------------------------------------------------------------------

-- Bytes of a word: "=?UTF-8?B?" and "?=" around 52 characters of base64 leave room for "Subject: " in a line of 76.
local WORD = 39

-- As encoded words, cut between characters, one a line.
local function encoded(text)
  local words, from = {}, 1
  while from <= #text do
    local to = math.min(from + WORD - 1, #text)
    while to < #text and to > from and text:byte(to + 1) >= 0x80 and text:byte(to + 1) < 0xC0 do to = to - 1 end
    words[#words + 1] = "=?UTF-8?B?" .. crypto.base64(text:sub(from, to)) .. "?="
    from = to + 1
  end
  return table.concat(words, "\r\n ")
end

local function is_plain(text) return not text:find("[\128-\255]") and not text:find("=?", 1, true) and #text <= 60 end

local function unstructured(text) return is_plain(text) and text or encoded(text) end

-- "Asha Rao <asha@example.com>", or the address alone → name or nil, address
local function take_apart(what, text)
  local name, address = line_of(what, text):match("^%s*(.-)%s*<([^<>]*)>%s*$")
  if not name then return nil, (text:match("^%s*(.-)%s*$")) end
  name = name:match('^"(.*)"$') or name
  return name ~= "" and name or nil, address
end

--- One or several as the author writes them → list of { name = string|nil, address = string }.
function M.addresses(what, value)
  local list = {}
  if value == nil then return list end
  for _, item in ipairs(type(value) == "table" and not value.address and value or { value }) do
    if type(item) == "table" then
      item = { name = item.name and line_of(what, item.name), address = line_of(what, item.address) }
    else
      local name, address = take_apart(what, text_of(what, item))
      item = { name = name, address = address }
    end
    list[#list + 1] = item
  end
  return list
end

local function mailbox(who)
  if not who.name then return who.address end
  local name = is_plain(who.name) and '"' .. who.name:gsub('[\\"]', "\\%0") .. '"' or encoded(who.name)
  return name .. "\r\n <" .. who.address .. ">"
end

local function mailboxes(list)
  local out = {}
  for i, who in ipairs(list) do out[i] = mailbox(who) end
  return table.concat(out, ",\r\n ")
end

local OURS = { from = true, to = true, cc = true, bcc = true, subject = true, date = true, sender = true,
  ["reply-to"] = true, ["message-id"] = true, ["mime-version"] = true, ["return-path"] = true }

local function own_headers(out, headers)
  local names = {}
  for name in pairs(headers or {}) do names[#names + 1] = name end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, name in ipairs(names) do
    if type(name) ~= "string" or not name:find("^[%w%-]+$") or #name > 64 then
      misuse("mail: headers: %s is not the name of one", tostring(name))
    end
    if OURS[name:lower()] or name:lower():find("^content%-") then
      misuse("mail: headers: %s is set by the message itself", name)
    end
    local value = unstructured(line_of("header " .. name, headers[name]))
    out[#out + 1] = name .. ":" .. (#name > 9 and value:find("^=%?") and "\r\n " or " ") .. value
  end
end

-- ---- bodies -------------------------------------------------------------------------------------------------

local function hex(c) return ("=%02X"):format(c:byte()) end

-- A line in quoted-printable, in pieces of at most 76 characters, no escape cut in two.
local function soft(line)
  local out = {}
  while #line > 76 do
    local cut = 75
    if line:sub(75, 75) == "=" then cut = 74 elseif line:sub(74, 74) == "=" then cut = 73 end
    out[#out + 1] = line:sub(1, cut) .. "="
    line = line:sub(cut + 1)
  end
  out[#out + 1] = line
  return table.concat(out, "\r\n")
end

local function quoted_printable(text)
  local out = {}
  text = text:gsub("\r\n", "\n"):gsub("\r", "\n")
  if text:sub(-1) ~= "\n" then text = text .. "\n" end
  for line in text:gmatch("([^\n]*)\n") do
    out[#out + 1] = soft((line:gsub("[^\t -<>-~]", hex):gsub("[\t ]$", hex)))
  end
  return table.concat(out, "\r\n")
end

local function text_part(kind, text)
  return "Content-Type: text/" .. kind .. "; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    .. quoted_printable(text)
end

local function multipart(kind, parts)
  local boundary = "=_chowk_" .. crypto.token()
  local out = { "Content-Type: multipart/" .. kind .. ';\r\n boundary="' .. boundary .. '"\r\n' }
  for _, part in ipairs(parts) do out[#out + 1] = "--" .. boundary .. "\r\n" .. part end
  out[#out + 1] = "--" .. boundary .. "--"
  return table.concat(out, "\r\n")
end

local function file_name(name)
  if is_plain(name) then return 'filename="' .. name:gsub('[\\"]', "\\%0") .. '"' end
  return "filename*=UTF-8''" .. name:gsub("[^%w%-%._~]", function(c) return ("%%%02X"):format(c:byte()) end)
end

local function attachment(i, file)
  if type(file) ~= "table" then misuse("mail: attachments: expected { name =, type =, data = }") end
  local name = line_of("attachment " .. i .. ": name", file.name)
  local kind = line_of("attachment " .. i .. ": type", file.type or "application/octet-stream")
  if not kind:find("^[%w%-%.%+]+/[%w%-%.%+]+$") then misuse("mail: attachment %d: %s is not a type", i, kind) end
  local data = crypto.base64(text_of("attachment " .. i .. ": data", file.data)):gsub(("."):rep(76), "%0\r\n")
  return "Content-Type: " .. kind .. "\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment;\r\n "
    .. file_name(name) .. "\r\n\r\n" .. data
end

local function body(message)
  local part
  if message.text and message.html then
    part = multipart("alternative", { text_part("plain", message.text), text_part("html", message.html) })
  else
    part = message.html and text_part("html", message.html) or text_part("plain", message.text)
  end
  if not message.attachments or #message.attachments == 0 then return part end
  local parts = { part }
  for i, file in ipairs(message.attachments) do parts[i + 1] = attachment(i, file) end
  return multipart("mixed", parts)
end

-- ---- all of it ----------------------------------------------------------------------------------------------

--- @param message table  from, to, cc, reply_to as lists of M.addresses; subject, text, html, attachments, headers
-- @return string text, string id
function M.build(message)
  if message.text then text_of("text", message.text) end
  if message.html then text_of("html", message.html) end
  if not message.text and not message.html then misuse("mail: a message has text, html, or both") end
  local id = "<" .. crypto.token() .. "@" .. message.from[1].address:match("@(.*)$") .. ">"
  local out = {
    "Date: " .. os.date("!%a, %d %b %Y %H:%M:%S +0000", time.unix()),
    "From: " .. mailbox(message.from[1]),
    "To: " .. mailboxes(message.to),
  }
  if #message.cc > 0 then out[#out + 1] = "Cc: " .. mailboxes(message.cc) end
  if #message.reply_to > 0 then out[#out + 1] = "Reply-To: " .. mailboxes(message.reply_to) end
  out[#out + 1] = "Subject: " .. unstructured(line_of("subject", message.subject))
  out[#out + 1] = "Message-ID: " .. id
  out[#out + 1] = "MIME-Version: 1.0"
  own_headers(out, message.headers)
  return table.concat(out, "\r\n") .. "\r\n" .. body(message) .. "\r\n", id
end

return M
