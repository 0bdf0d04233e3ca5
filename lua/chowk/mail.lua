-- Mail, through the server that mail.url names: STARTTLS or TLS from the start, with the name verified. Without
-- mail.url, in development, mail is logged and kept: mail.outbox().
--
--   local mail = require "chowk.mail"
--   local confirmed = mail.template { subject = "Order {{number}}", text = "Dear {{name}} …", html = "<p>Dear …" }
--   mail.send { to = "Asha Rao <asha@example.com>", template = confirmed, data = order,
--     attachments = { { name = "invoice.pdf", type = "application/pdf", data = bytes } } }
--
-- Raises error{code, message, retryable}: mail_refused (for good: an unknown recipient, a message too large),
-- unavailable, timeout, queue_full, and outcome_unknown when the message had gone out and no answer came: it may have
-- arrived. A mail belongs into a job: it is slow, it cannot be rolled back, and jobs try again. Not inside pg.tx.
local config = require "chowk.config"
local core = require "chowk.core.mail"
local json = require "chowk.json"
local log = require "chowk.log"
local message_of = require "chowk.mail_message"
local raise = require "chowk.raise"
local templates = require "chowk.mail_template"
local time = require "chowk.time"

local M = {}

local settle, misuse = raise.settle, raise.misuse

local OPTIONS = { to = true, cc = true, bcc = true, from = true, reply_to = true, subject = true, text = true,
  html = true, template = true, data = true, attachments = true, headers = true, timeout = true }
local KEPT = 100 -- messages in the outbox of one worker

local outbox = {}

local function keep(m, envelope, id, text)
  local kept = { id = id, from = envelope.from, to = envelope.to, subject = m.subject, text = m.text, html = m.html,
    attachments = m.attachments or {}, headers = m.headers or {}, raw = text }
  outbox[#outbox + 1] = kept
  if #outbox > KEPT then table.remove(outbox, 1) end
  log.info("mail kept, not sent: mail.url is not set",
    { to = table.concat(envelope.to, ", "), subject = m.subject, text = m.text or m.html })
end

local function from_template(m, options)
  if not options.template then return end
  if type(options.template) ~= "function" then misuse("mail.send: template: expected what mail.template gives") end
  for part, text in pairs(options.template(options.data)) do
    if m[part] == nil then m[part] = text end
  end
end

local function prepare(options)
  if type(options) ~= "table" then misuse("mail.send: expected { to =, subject =, text = }, got %s", type(options)) end
  local m = {}
  for name, value in pairs(options) do
    if not OPTIONS[name] then raise.unknown("mail.send", name, OPTIONS) end
    m[name] = value
  end
  from_template(m, options)
  for _, field in ipairs { "from", "to", "cc", "bcc", "reply_to" } do
    local value = m[field]
    if field == "from" and value == nil then value = config.get("mail.from") end
    m[field] = message_of.addresses(field, value)
    for _, who in ipairs(m[field]) do core.check_address(who.address) end
  end
  if #m.from ~= 1 then misuse("mail.send: from: expected one sender (or mail.from in the configuration)") end
  if #m.to == 0 then misuse("mail.send: to: nobody") end
  if m.subject == nil then misuse("mail.send: subject is missing") end
  return m
end

local function envelope_of(m)
  local to, seen = {}, {}
  for _, list in ipairs { m.to, m.cc, m.bcc } do
    for _, who in ipairs(list) do
      if not seen[who.address] then to[#to + 1] = who.address end
      seen[who.address] = true
    end
  end
  return { from = m.from[1].address, to = to }
end

--- Sends one message. It is either taken by the mail server for all who shall get it, or for none.
-- @param options table
--   to, cc, bcc string | list  "a@example.com", "Asha Rao <a@example.com>" or { name =, address = }; 100 at most
--   from string  mail.from by default        reply_to string | list
--   subject, text, html string  text, html or both; or template and data, see mail.template
--   attachments list  { { name =, type =, data = }, … }
--   headers table  further ones: { ["List-Unsubscribe"] = "<…>" }
--   timeout duration  mail.timeout by default
-- @return string  the Message-ID
-- Yields. A client that goes away no longer ends the request afterwards.
function M.send(options)
  local m = prepare(options)
  local envelope = envelope_of(m)
  local text, id = message_of.build(m)
  local timeout_ms = config.get("mail.timeout")
  if m.timeout then timeout_ms = math.min(3600000, math.max(1, math.ceil(time.seconds(m.timeout) * 1000))) end
  if not settle(core.send(envelope.from, envelope.to, text, timeout_ms)) then keep(m, envelope, id, text) end
  return id
end

--- Compiles a template, at load time: lua/store/mail/order_confirmed.lua says `return mail.template { … }`.
-- {{name}} is a value, escaped in html; {{{name}}} as it is; {{price|filter}}; {{#list}}…{{/list}},
-- {{^list}}…{{/list}}.
-- See chowk/mail_template.lua. A value that is not there raises.
-- @param source table  subject, text, html strings; filters = { name = function(value) → text }
-- @return function(data) → { subject, text, html }, also for mail.send{ template =, data = }
-- Does not yield.
function M.template(source)
  return templates.new(source)
end

--- Text as it may stand in HTML.
M.escape = templates.escape

--- What was sent while there was no mail server: { { id, from, to, subject, text, html, attachments, headers, raw } }
-- for the last hundred messages of this worker, oldest first. Development only; does not yield.
function M.outbox()
  local copy = json.array()
  for i, kept in ipairs(outbox) do copy[i] = kept end
  return copy
end

--- Empties the outbox.
function M.clear_outbox()
  outbox = {}
end

--- What this worker does: { active, waiting, sent, failed }; nil without a mail server.
function M.stats()
  return core.stats()
end

return M
