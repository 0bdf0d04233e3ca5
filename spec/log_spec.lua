-- The log: lines that can be joined, what they do not show, files that are moved away, and a reader that is too slow.
local server = require "spec.support.server"
local json = require "dkjson"

local CHOWK = os.getenv "CHOWK"
local APP = [[
local app, pg, redis, task = require "chowk.app", require "chowk.pg", require "chowk.redis", require "chowk.task"
local log, http = require "chowk.log", require "chowk.http"
local routes = app.routes()

routes:get("/", function() return "fine" end)
routes:get("/things/:id", function(req)
  log.info("a thing", { id = req.params.id })
  return "a thing"
end)
routes:get("/boom/:id", function() error("it broke") end)
routes:get("/times", function()
  pg.value("SELECT pg_sleep(0.05)::text")
  redis.blpop("nothing", "0.03")
  task.sleep(0.02)
  return "slept"
end)
routes:get("/both", function()
  task.all { function() task.sleep(0.02) end, function() pg.value("SELECT pg_sleep(0.03)::text") end }
  return "both"
end)
routes:get("/queue", function()
  return pg.tx(function(tx) return tx:value("SELECT 'done' || pg_sleep(0.1)") end)
end)
routes:get("/out", function(req) return http.get(req.query.url).body end)
routes:get("/private", function()
  log.info("sign-in of asha@example.in", { email = "asha@example.in", password = "correct-horse",
    note = "call 9876543210", card = "4111 1111 1111 1111", user = { api_key = "sk_live_77", name = "Asha" },
    order = "PC2627-000123" })
  return "fine"
end)
routes:get("/twice", function()
  pg.exec("CREATE TABLE IF NOT EXISTS people (name text, email text, UNIQUE (name), UNIQUE (email))")
  pg.exec("INSERT INTO people VALUES ('Asha Rao', 'asha@example.in')")
  return "in"
end)
routes:get("/flood", function()
  log.info("flood", { text = ("x"):rep(8000) })
  return "fine"
end)
return routes
]]

describe("the log", function()
  local s
  local function start(log, config)
    config = config or {}
    log.format = log.format or "json"
    config.log = log
    s = server.start { app = APP, config = config }
    return s
  end
  after_each(function()
    if s then s:stop() end
    s = nil
  end)

  local function read(path)
    local f = io.open(path)
    local text = f and f:read("*a") or ""
    if f then f:close() end
    return text
  end
  local function lines_of(text)
    local lines = {}
    for line in text:gmatch("[^\n]+") do lines[#lines + 1] = line:sub(1, 1) == "{" and json.decode(line) or nil end
    return lines
  end
  -- The line with that message of the request answered by `answer`. A call out carries the same id.
  local function line_of(answer, msg, route)
    local id, found = answer.headers["x-request-id"], nil
    server.eventually("the line of " .. id, function()
      for _, line in ipairs(lines_of(s:log())) do
        if line.request_id == id and line.msg == msg and (not route or line.route == route) then found = line end
      end
      return found
    end)
    return found
  end

  it("tells of each request who, what, and where the time went", function()
    start({}, { pg = { tx_connections = 1 } })
    local answer = s:get("/times?token=private")
    local line = line_of(answer, "request")
    assert.same({ "GET", "/times", 200, 5, "127.0.0.0" }, { line.method, line.route, line.status, line.bytes, line.ip })
    assert.equal(answer.headers["x-chowk-generation"], line.generation)
    assert.truthy(line.pg_ms >= 49 and line.redis_ms >= 29 and line.wait_ms >= 18, json.encode(line))
    assert.equal(0, line.http_ms)
    assert.truthy(math.abs(line.lua_ms + line.pg_ms + line.redis_ms + line.wait_ms - line.ms) < 0.01, json.encode(line))
    assert.falsy(s:log():find("private", 1, true))

    line = line_of(s:get("/both"), "request")
    assert.truthy(line.pg_ms >= 29 and line.wait_ms >= 18, json.encode(line))
    line = line_of(s:get("/out?url=" .. ("http://127.0.0.1:%d/times"):format(s.port)), "request", "/out")
    assert.truthy(line.http_ms >= 95 and line.pg_ms == 0, json.encode(line))

    local waited = 0
    for _, a in ipairs(s:parallel { { "GET", "/queue" }, { "GET", "/queue" } }) do
      line = line_of(a, "request")
      assert.truthy(line.pg_ms >= 98, json.encode(line))
      waited = math.max(waited, line.wait_ms)
    end
    assert.truthy(waited >= 50, "the second one waits for the only connection, which is not PostgreSQL's time")
    line = line_of(s:get("/nowhere"), "request")
    assert.equal(404, line.status)
    assert.equal(nil, line.route)
  end)

  it("joins what a request logs, and its error, with it", function()
    start({})
    local answer = s:get("/things/7")
    local line = line_of(answer, "a thing")
    assert.same({ "GET /things/:id", "7" }, { line.route, line.id })
    assert.equal(answer.headers["x-chowk-generation"], line.generation)
    answer = s:get("/boom/7")
    line = line_of(answer, "Lua error")
    assert.same({ "GET /boom/:id", answer.headers["x-chowk-generation"] }, { line.route, line.generation })
    assert.truthy(line.error:find("it broke", 1, true), line.error)
    assert.truthy(line.traceback:find("app.lua:10", 1, true), line.traceback)
  end)

  it("shows neither secrets nor personal data", function()
    start({})
    local line = line_of(s:get("/private"), "sign-in of [email]")
    assert.same({ "***", "***", "call [phone]", "[card]", "***", "Asha", "PC2627-000123" },
      { line.email, line.password, line.note, line.card, line.user.api_key, line.user.name, line.order })
    assert.equal(200, s:get("/twice").status)
    local answer = s:get("/twice")
    assert.equal(409, answer.status)
    line = line_of(answer, "request failed")
    assert.truthy(line.error:find("(name)=(***)", 1, true), line.error)
    for _, private in ipairs { "asha@", "correct-horse", "9876543210", "4111", "sk_live", "Asha Rao", "127.0.0.1" } do
      for _, l in ipairs(lines_of(s:log())) do
        if l.request_id then assert.falsy(json.encode(l):find(private, 1, true), private) end
      end
    end
  end)

  it("shows all of it when it is told to", function()
    start({ redact = false })
    local line = line_of(s:get("/private"), "sign-in of asha@example.in")
    assert.same({ "correct-horse", "sk_live_77" }, { line.password, line.user.api_key })
    assert.equal("127.0.0.1", line_of(s:get("/"), "request").ip)
  end)

  it("goes to files, and to new ones on USR1, without losing a line", function()
    start({ file = "chowk.log", access_file = "access.log" }, { workers = 2 })
    local ids, n = {}, 0
    local function ask(many)
      for _ = 1, many do
        n = n + 1
        ids["r-" .. n] = true
        assert.equal(200, s:get("/things/" .. n, { headers = { ["X-Request-Id"] = "r-" .. n } }).status)
      end
    end
    local function seen(pattern)
      local found = 0
      for id in read(s.dir .. "/access.log"):gmatch(pattern) do found = found + (ids[id] and 1 or 0) end
      return found
    end
    ask(20)
    server.sh(("cd %s && mv access.log access.1 && mv chowk.log chowk.1"):format(s.dir))
    ask(20)
    server.sh("pkill -USR1 -P " .. s.pid) -- straight to the workers: nothing happens
    s:kill("USR1")
    server.eventually("new files", function() return read(s.dir .. "/access.log") ~= "" or (ask(1) and false) end)
    ask(20)
    local function ids_in(...)
      local found, total = {}, 0
      for _, file in ipairs { ... } do
        for id in read(s.dir .. "/" .. file):gmatch('"request_id":"(r%-%d+)"') do
          total = total + (found[id] and 0 or 1)
          found[id] = true
        end
      end
      return total
    end
    server.eventually("every line", function() return ids_in("access.1", "access.log") == n end)
    server.eventually("every line", function() return ids_in("chowk.1", "chowk.log") == n end)
    assert.truthy(seen('"request_id":"(r%-%d+)"') >= 20)
    assert.truthy(read(s.dir .. "/chowk.log"):find('"msg":"a thing"', 1, true))
    assert.falsy(read(s.dir .. "/chowk.log"):find('"msg":"request"', 1, true))
    assert.truthy(s:is_alive())
    assert.falsy((read(s.dir .. "/chowk.1") .. read(s.dir .. "/chowk.log")):find("worker died", 1, true))
  end)

  it("says why a server with an impossible file does not start", function()
    s = server.start { app = APP, start = false, config = { log = { file = "no/such/dir/log" } } }
    local out, code = server.sh(("cd %s && %s serve"):format(s.dir, CHOWK))
    assert.equal(1, code)
    assert.truthy(out:find("log.file: cannot open no/such/dir/log: No such file", 1, true), out)
  end)

  it("says on standard error that a disk is full, and serves on", function()
    start { file = "/dev/full" }
    server.eventually("a word of it", function()
      local line = s:log():match('[^\n]*"a log file cannot be written[^\n]*')
      return line and json.decode(line).error == "No space left on device"
    end)
    assert.equal("fine", s:get("/").body)
  end)

  it("is standard error to a worker that finds its file gone", function()
    s = server.start { app = APP, start = false, config = { log = { file = "logs/chowk.log" } } }
    server.sh("mkdir " .. s.dir .. "/logs")
    s:start_process()
    server.sh(("mv %s/logs %s/gone"):format(s.dir, s.dir))
    server.sh("pkill -KILL -P " .. s.pid .. " -f -- --worker")
    assert.truthy(s:logged("cannot open logs/chowk.log"))
    assert.equal(200, s:get("/").status)
    assert.truthy(s:logged("200 GET"))
  end)

  it("survives USR1 while it starts", function()
    s = server.start { app = APP, start = false, config = { log = { file = "chowk.log" } } }
    local wrapper = s.dir .. "/wrap"
    local f = io.open(wrapper, "w")
    f:write([[#!/bin/sh
( i=0; while [ $i -lt 300 ]; do i=$((i+1))
  mask=$(sed -n 's/^SigCgt:.*\(....\)$/\1/p' /proc/$$/status)
  [ $((0x$mask & 0x4000)) -ne 0 ] && kill -USR1 $$
done ) 2>/dev/null &
exec "$@"
]])
    f:close()
    s.wrap = "sh " .. wrapper
    s:start_process()
    assert.equal(200, s:get("/").status)
  end)

  -- Neither the loop nor the answers wait for who reads the log; what he missed is counted and told.
  it("is not waited for", function()
    s = server.start { app = APP, start = false,
      config = { http = { deadline = "5s" }, log = { format = "json", buffer = "64KiB" } } }
    local f = io.open(s.dir .. "/wrap", "w")
    f:write(('exec "$@" 2<>%s/pipe\n'):format(s.dir))
    f:close()
    server.sh("mkfifo " .. s.dir .. "/pipe")
    s.wrap = "sh " .. s.dir .. "/wrap"
    s:start_process()
    for _ = 1, 60 do assert.equal(200, s:get("/flood", { timeout = 30 }).status) end
    local function dropped()
      local out = server.sh(("cd %s && %s status --json"):format(s.dir, CHOWK))
      return json.decode(out).log.dropped
    end
    assert.truthy(dropped() > 20, "the pipe and the buffer hold 128 KiB")
    local cat = server.sh(("cat %s/pipe >%s/seen 2>/dev/null & echo $!"):format(s.dir, s.dir)):match("%d+")
    finally(function() server.sh("kill " .. cat) end)
    server.eventually("the number of lost lines", function()
      return read(s.dir .. "/seen"):find('"msg":"log lines dropped[^\n]+"dropped":%d+}\n')
    end)
    local n_told, n_lines = 0, 0
    server.eventually("the last line", function() -- the first may come before there is room
      assert.equal(200, s:get("/things/last").status)
      return read(s.dir .. "/seen"):find('"id":"last"', 1, true)
    end)
    for _, line in ipairs(lines_of(read(s.dir .. "/seen"))) do
      n_told = n_told + (line.dropped or 0)
      n_lines = n_lines + ((line.msg == "flood" or line.route == "/flood") and 1 or 0)
    end
    assert.truthy(n_lines + n_told >= 120, "each line is there, or counted")
    assert.equal(dropped(), n_told)
  end)
end)
