-- chowk.mail against a real SMTP server, which does what the recipient's name says (tests/fault/smtp.py).
local json = require "dkjson"
local server = require "spec.support.server"
local smtp = require "spec.support.smtp"
local tls = require "spec.support.tls"

local APP = [==[
local app, mail, crypto, pg = require "chowk.app", require "chowk.mail", require "chowk.crypto", require "chowk.pg"
local confirmed = require "mail.confirmed"
local routes = app.routes()
local function failed(err) return { code = err.code, message = err.message, retryable = err.retryable } end

routes:post("/send", { max_body = 4194304 }, function(req)
  local o = req:json()
  for _, file in ipairs(o.attachments or {}) do file.data = crypto.unbase64(file.data) end
  if o.data then o.template = confirmed end
  local ok, id = pcall(mail.send, o)
  if ok then return { id = id } end
  if type(id) == "string" then return 500, id end
  return failed(id)
end)
routes:get("/late", { deadline = "300ms" }, function(req)
  return mail.send { to = req.query.to, subject = "late", text = "x" }
end)
routes:get("/in-tx", function()
  return pg.tx(function() mail.send { to = "a@b.test", subject = "s", text = "t" } end)
end)
routes:get("/render", function() return confirmed { number = "A<1>", name = "\"Asha\" & co", items = {} } end)
routes:get("/outbox", function() return mail.outbox() end)
routes:get("/stats", function() return mail.stats() end)
return routes
]==]

local TEMPLATE = [==[
return require("chowk.mail").template {
  subject = "Order {{number}}",
  text = [[
Dear {{name}},

{{#items}}
- {{quantity}} x {{name}}: {{price|rupees}}
{{/items}}
{{^items}}
nothing
{{/items}}
]],
  html = "<p title='{{name}}'>Dear {{name}}{{! who else }}, {{{footer}}}</p>",
  filters = { rupees = function(paise) return ("Rs %d.%02d"):format(paise / 100, paise % 100) end },
}
]==]

local FILES = { ["mail/confirmed.lua"] = TEMPLATE:gsub(", {{{footer}}}", ""), }

local function start(sink, url, more, environment, now)
  local config = { mail = { url = url and url:gsub("PORT", tostring(sink.port)), from = "Dukān <shop@example.test>" } }
  for section, values in pairs(more or {}) do
    config[section] = config[section] or {}
    for name, value in pairs(values) do config[section][name] = value end
  end
  config.environment = environment
  return server.start { app = APP, files = FILES, config = config, start = now }
end

-- What a message says, read by Python's own reader: { headers, parts = { { type, filename, text } } }
local function read_mime(data)
  local file = os.tmpname()
  local f = assert(io.open(file, "wb"))
  f:write(data)
  f:close()
  local out = server.sh("/usr/bin/python3 spec/support/read_mime.py " .. file)
  os.remove(file)
  return assert((json.decode(out)), out)
end

local function utf8_of(latin) -- bytes that came through JSON as latin-1
  return (latin:gsub("\195([\128-\191])", function(c) return string.char(c:byte() + 64) end)
    :gsub("\194([\128-\191])", "%1"))
end

describe("chowk.mail", function()
  local sink, s

  setup(function()
    sink = smtp.start()
    s = start(sink, "smtp://127.0.0.1:PORT", { mail = { tls = "none" } })
  end)
  teardown(function()
    s:stop()
    sink:stop()
  end)

  local function send(message, to)
    local answer = (to or s):post("/send", { json = message })
    return answer.json or answer.body, answer
  end
  local function fails(code, to, more)
    local message = { to = to, subject = "s", text = "t" }
    for k, v in pairs(more or {}) do message[k] = v end
    local err, answer = send(message)
    assert.equal(code, type(err) == "table" and err.code, answer.body)
    return err
  end
  local function last() local all = sink:messages() return all[#all] end

  it("sends text, html and attachments, as they were given", function()
    local long = ("word "):rep(60) .. "end \n.\n..dots\n=equals= \ttab\t\nनमस्ते " .. ("ü"):rep(100)
    local bytes = {}
    for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
    bytes = table.concat(bytes):rep(20)
    local mime = require "mime"
    local sent = send { to = { "Asha Rao <asha@example.test>", { name = "Zoë \"Z\"", address = "zoe@example.test" } },
      cc = "c@example.test", bcc = "hidden@example.test", reply_to = "help@example.test",
      subject = "आपका ऑर्डर " .. ("लंबा "):rep(20), text = long, html = "<p>ü</p>",
      headers = { ["List-Unsubscribe"] = "<mailto:stop@example.test>" },
      attachments = { { name = "rechnung-ü.pdf", type = "application/pdf", data = (mime.b64(bytes)) },
        { name = "a \"b\".txt", data = (mime.b64("x")) } } }
    assert.truthy(sent.id and sent.id:find("^<[%w_-]+@example.test>$"), json.encode(sent))
    local message = last()
    assert.same({ "asha@example.test", "zoe@example.test", "c@example.test", "hidden@example.test" }, message.to)
    assert.equal("shop@example.test", message.from)
    assert.falsy(message.data:find("hidden", 1, true))
    for line in message.data:gmatch("([^\n]*)\r\n") do
      assert.is_true(#line <= 78 and not line:find("[\r\n\128-\255]"), line)
    end
    local m = read_mime(message.data)
    assert.equal(0, m.defects)
    assert.equal("Dukān <shop@example.test>", m.headers.from)
    assert.equal('Asha Rao <asha@example.test>, "Zoë \\"Z\\"" <zoe@example.test>', m.headers.to)
    assert.equal("आपका ऑर्डर " .. ("लंबा "):rep(20), m.headers.subject)
    assert.same({ "help@example.test", sent.id, "<mailto:stop@example.test>" },
      { m.headers["reply-to"], m.headers["message-id"], m.headers["list-unsubscribe"] })
    assert.truthy(m.headers.date:find("^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d %+0000$"), m.headers.date)
    assert.same({ "text/plain", "text/html", "application/pdf", "application/octet-stream" },
      { m.parts[1].type, m.parts[2].type, m.parts[3].type, m.parts[4].type })
    assert.equal(long, (utf8_of(m.parts[1].text):gsub("\r\n", "\n"):gsub("\n$", "")))
    assert.equal(bytes, utf8_of(m.parts[3].text))
    assert.same({ "rechnung-ü.pdf", 'a "b".txt' }, { m.parts[3].filename, m.parts[4].filename })
  end)

  it("lets nobody write a header", function()
    local evil = "x\r\nBcc: everybody@example.test"
    local n = #sink:messages()
    for _, message in ipairs { { subject = evil }, { to = "a@b.test\r\nRCPT TO:<c@d.test>" },
      { to = "a@b.test> <c@d.test" }, { from = { name = evil, address = "a@b.test" } },
      { headers = { X = evil } }, { headers = { ["X: y\r\nZ"] = "1" } },
      { headers = { Bcc = "c@d.test" } }, { attachments = { { name = evil, data = "" } } }, { to = "ü@b.test" },
      { attachments = { { name = "a", type = "text/plain\r\nX: y", data = "" } } }, { to = "nobody" }, { to = {} } } do
      local whole = { to = "a@b.test", subject = "s", text = "t" }
      for k, v in pairs(message) do whole[k] = v end
      local answer = s:post("/send", { json = whole })
      assert.equal(500, answer.status, answer.body)
      assert.truthy(answer.body:find("^app.lua:%d+: mail") or answer.body:find("mail", 1, true), answer.body)
    end
    assert.equal(n, #sink:messages())
  end)

  it("says what the server said", function()
    local err = fails("mail_refused", "refused@example.test")
    assert.truthy(err.message:find("550 5.1.1 no such user", 1, true), err.message)
    assert.is_false(err.retryable)
    fails("mail_refused", { "good@example.test", "refused@example.test" })
    err = fails("unavailable", "later@example.test")
    assert.truthy(err.message:find("451 4.3.0", 1, true) and err.retryable, err.message)
    err = fails("mail_refused", "spam@example.test")
    assert.truthy(err.message:find("554 5.7.1", 1, true), err.message)
  end)

  it("waits as long as it may, and knows what it does not know", function()
    fails("timeout", "slow@example.test", { timeout = "200ms" })
    fails("outcome_unknown", "drop@example.test")
    local answer = s:get("/late?to=slow@example.test")
    assert.same({ 503, "deadline" }, { answer.status, answer.json.code })
    assert.equal(500, s:get("/in-tx").status)
    assert.truthy(s:logged("mail.send in an open transaction"))
  end)

  it("keeps a connection, and gets a new one when that has died", function()
    assert.truthy(send { to = "a@example.test", subject = "1", text = "t" }.id)
    assert.truthy(send { to = "once@example.test", subject = "2", text = "t" }.id)
    local kept = last().connection
    assert.truthy(send { to = "b@example.test", subject = "3", text = "t" }.id)
    assert.truthy(send { to = "b@example.test", subject = "4", text = "t" }.id)
    assert.truthy(last().connection >= kept)
    local stats = s:get("/stats").json
    assert.same({ 0, 0 }, { stats.active, stats.waiting })
  end)

  it("fills templates, escapes, and misses nothing silently", function()
    local order = { number = "PC-1", name = "A & B", items = { { quantity = 2, name = "Print", price = 49950 } } }
    assert.truthy(send({ to = "a@example.test", data = order }).id)
    local m = read_mime(last().data)
    assert.equal("Order PC-1", m.headers.subject)
    assert.equal("Dear A & B,\n\n- 2 x Print: Rs 499.50\n", (m.parts[1].text:gsub("\r\n", "\n")) .. "\n")
    assert.equal("<p title='A &amp; B'>Dear A &amp; B</p>", (m.parts[2].text:gsub("%s+$", "")))
    local rendered = s:get("/render").json
    assert.equal("Order A<1>", rendered.subject)
    assert.truthy(rendered.text:find("nothing\n", 1, true), rendered.text)
    assert.truthy(rendered.html:find("&quot;Asha&quot; &amp; co", 1, true), rendered.html)
    local answer = s:post("/send", { json = { to = "a@example.test", data = { name = "x", items = {} } } })
    assert.truthy(answer.body:find("there is no value number", 1, true), answer.body)
  end)
end)

describe("chowk.mail templates", function()
  it("stop the load when they are wrong, with file and line", function()
    for source, text in pairs { ["a {{#b}}"] = "{{#b}} is never closed", ["\n{{x"] = "line 2: {{ without }}",
      ["{{/b}}"] = "closes nothing", ["{{x|y}}"] = "no filter y", ["{{a b}}"] = "is not a name" } do
      local s = server.start { app = APP, start = false, files = {
        ["mail/confirmed.lua"] = ("\nlocal mail = require 'chowk.mail'\n"
          .. "local t = mail.template { text = %q }\nreturn t"):format(source) } }
      assert.is_false((pcall(s.start_process, s)))
      assert.truthy(s:logged("mail/confirmed.lua:3: mail.template: text"), s:log())
      assert.truthy(s:logged(text), s:log())
      s.pid = nil
      s:stop()
    end
  end)
end)

describe("chowk.mail without a server", function()
  it("keeps mail in development", function()
    local s = start({ port = 0 }, nil)
    assert.truthy(s:post("/send", { json = { to = "a@b.test", subject = "Hallo", text = "Welt" } }).json.id)
    local kept = s:get("/outbox").json
    assert.equal(1, #kept)
    assert.same({ "Hallo", "Welt", { "a@b.test" } }, { kept[1].subject, kept[1].text, kept[1].to })
    assert.truthy(s:logged("mail kept, not sent"))
    assert.equal(500, s:get("/in-tx").status)
    s:stop()
  end)

  it("raises in production, and sends no password in clear", function()
    local s = start({ port = 0 }, nil, { stop = { lame_duck = 0 }, payments = { confirm = "fetch" },
      razorpay = { key_id = "k", key_secret = "s", webhook_secrets = { "w" } } }, "production")
    assert.equal("unavailable", s:post("/send", { json = { to = "a@b.test", subject = "s", text = "t" } }).json.code)
    s:stop()
    s = start({ port = 1 }, "smtp://u:p@127.0.0.1:PORT", { mail = { tls = "none" },
      razorpay = { key_id = "k", key_secret = "s", webhook_secrets = { "w" } } }, "production", false)
    assert.is_false((pcall(s.start_process, s)))
    assert.truthy(s:logged("would send the password of mail.url in clear text"), s:log())
    s.pid = nil
    s:stop()
  end)
end)

describe("chowk.mail and TLS", function()
  local dir

  setup(function()
    dir = server.sh("mktemp -d /tmp/chowk-mail-ca.XXXXXX"):match("%S+")
    tls.authority(dir, "ca")
    tls.certificate(dir, "ca", "good", "DNS:localhost")
    tls.certificate(dir, "ca", "wrong", "DNS:elsewhere.example")
  end)
  teardown(function() server.sh("rm -rf " .. dir) end)

  -- Sends one message through a server set up so → the answer, what arrived.
  local function try(sink_opts, url, mail)
    for _, name in ipairs { "cert", "key" } do
      if sink_opts[name] then sink_opts[name] = dir .. "/" .. sink_opts[name] end
    end
    local sink = smtp.start(sink_opts)
    local s = start(sink, url, { http_client = { ca = dir .. "/ca.crt" }, mail = mail })
    local answer = s:post("/send", { json = { to = "a@b.test", subject = "s", text = "t" } })
    local all = sink:messages()
    s:stop()
    sink:stop()
    return answer.json or answer.body, all
  end

  it("is STARTTLS with a login", function()
    local sent, all = try({ tls = "starttls", cert = "good.crt", key = "good.key", auth = "shop:p@ss" },
      "smtp://shop:p%40ss@localhost:PORT")
    assert.truthy(sent.id, json.encode(sent))
    assert.same({ true, "shop" }, { all[1].tls, all[1].user })
  end)

  it("or TLS from the start", function()
    local sent, all = try({ tls = "implicit", cert = "good.crt", key = "good.key" }, "smtps://localhost:PORT")
    assert.truthy(sent.id, json.encode(sent))
    assert.is_true(all[1].tls)
  end)

  it("is never left out, and the name is verified", function()
    local err, all = try({}, "smtp://localhost:PORT")
    assert.same({ "unavailable", 0 }, { err.code, #all })
    err, all = try({ tls = "starttls", cert = "wrong.crt", key = "wrong.key" }, "smtp://localhost:PORT")
    assert.same({ "unavailable", 0 }, { err.code, #all })
    assert.truthy(err.message:find("hostname mismatch", 1, true), err.message)
  end)

  it("tells a wrong password apart", function()
    local err = try({ tls = "starttls", cert = "good.crt", key = "good.key", auth = "shop:right" },
      "smtp://shop:wrong@localhost:PORT")
    assert.equal("unavailable", err.code)
    assert.truthy(err.message:find("535", 1, true) and err.message:find("login", 1, true), err.message)
  end)
end)
