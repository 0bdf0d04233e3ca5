-- What lives on through a reload, what ends with it, and what happens to reloads in bad moments.
local server = require "spec.support.server"
local json = require "dkjson"
local socket = require "socket"

local CHOWK = os.getenv "CHOWK"

local APP = [[
local app, pg, redis, task = require "chowk.app", require "chowk.pg", require "chowk.redis", require "chowk.task"
local N, counter = 0, 0
local routes = app.routes()
routes:get("/", function() counter = counter + 1 return { n = N, counter = counter } end)
routes:get("/backends", function()
  return task.all { function() return pg.value("SELECT pg_backend_pid()") end,
    function() return pg.tx(function(tx) return tx:value("SELECT pg_backend_pid()") end) end }
end)
app.on_start(function()
  task.spawn(function()
    local sub = redis.subscribe("news")
    while sub:next() do end
  end)
  task.spawn(function() while true do pcall(task.sleep, 3600) end end)
end)
return routes
]]

local function write(s, name, text)
  local f = assert(io.open(s.dir .. "/" .. name, "w"))
  f:write(text)
  f:close()
end

local function save(s, n, more)
  write(s, "app.lua", (more or "") .. (APP:gsub("local N, counter = 0", "local N, counter = " .. n)))
end

local function chowk(s, arguments)
  return server.sh(("cd %s && %s %s"):format(s.dir, CHOWK, arguments))
end

local function reload(s, n)
  save(s, n)
  local out, code = chowk(s, "reload")
  assert.equal(0, code, out)
  return out
end

local function start(config)
  local all = { workers = 1, jobs = { workers = 0 }, reload = { watch = false, timeout = "10s" } }
  for k, v in pairs(config or {}) do all[k] = v end
  return server.start { app = APP, config = all }
end

describe("a reload", function()
  it("keeps connections, on both sides, and forgets what Lua knew", function()
    local s = start()
    finally(function() s:stop() end)
    local backends = s:get("/backends").json
    local client = assert(socket.connect("127.0.0.1", s.port))
    local function ask()
      client:send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
      local body_len
      repeat
        local line = assert(client:receive("*l"))
        body_len = line:match("^Content%-Length: (%d+)") or body_len
      until line == ""
      return json.decode((client:receive(tonumber(body_len))))
    end
    assert.same({ n = 0, counter = 1 }, ask())
    assert.same({ n = 0, counter = 2 }, ask())
    local pid = s:processes("--worker")[1]
    for n = 1, 3 do
      local out = reload(s, n)
      assert.truthy(out:find("^reloaded: code %x+, generation " .. n + 1 .. ", 2 routes, %d+ ms\n$"), out)
      assert.same({ n = n, counter = 1 }, ask())
    end
    client:close()
    assert.same(backends, s:get("/backends").json)
    assert.same({ pid }, s:processes "--worker")
  end)

  it("ends the old code's tasks and subscriptions", function()
    local s = start()
    finally(function() s:stop() end)
    local function subscribers() return s:redis("pubsub numsub news"):match("%d+%s*$") end
    server.eventually("a subscriber", function() return tonumber(subscribers()) == 1 end)
    for n = 1, 4 do reload(s, n) end
    server.eventually("one generation", function()
      return chowk(s, "status --json"):find('"generations_alive":1,', 1, true)
    end)
    assert.equal(1, tonumber(subscribers()))
  end)

  it("lets app.self_test look at the database", function()
    local s = start()
    finally(function() s:stop() end)
    s:exec("CREATE TABLE prices (paise integer)")
    save(s, 1, [[
      require("chowk.app").self_test(function()
        local n = require("chowk.pg").value("SELECT count(*) FROM prices")
        if n == 0 then error("no prices", 0) end
      end)
    ]])
    local out, code = chowk(s, "reload")
    assert.same({ 1, "no prices" }, { code, out:match("^[^\n]+") })
    s:exec("INSERT INTO prices VALUES (100)")
    out, code = chowk(s, "reload")
    assert.equal(0, code, out)
    assert.equal(1, s:get("/").json.n)
  end)

  it("outlives the death of a worker that is loading", function()
    local s = start { workers = 2 }
    finally(function() s:stop() end)
    save(s, 1, "local t = os.clock() while os.clock() - t < 0.7 do end\n")
    local pipe = io.popen(("cd %s && %s reload 2>&1; echo $?"):format(s.dir, CHOWK))
    server.eventually("a worker that loads", function()
      return server.sh("cat /proc/" .. s:processes("--worker")[1] .. "/task/*/comm"):find("generations", 1, true)
    end)
    server.sh("kill -9 " .. s:processes("--worker")[1])
    local out = pipe:read("*a")
    pipe:close()
    assert.truthy(out:find("\n0\n$"), out)
    for _ = 1, 10 do assert.equal(1, s:get("/").json.n) end
    assert.equal(2, #s:processes "--worker")
  end)

  it("that was asked for many times is made at most twice", function()
    local s = start()
    finally(function() s:stop() end)
    save(s, 1)
    local out = server.sh(("cd %s && for i in $(seq 8); do %s reload & done; wait"):format(s.dir, CHOWK))
    local _, n = out:gsub("reloaded: ", "")
    assert.equal(8, n, out)
    local last = 0
    for generation in out:gmatch("generation (%d+)") do last = math.max(last, tonumber(generation)) end
    assert.truthy(last <= 9)
    assert.equal(1, s:get("/").json.n)
  end)

  it("is dropped by a stop", function()
    local s = start()
    finally(function() s:stop() end)
    save(s, 1, "local t = os.clock() while os.clock() - t < 5 do end\n")
    local pipe = io.popen(("cd %s && %s reload 2>&1; echo $?"):format(s.dir, CHOWK))
    local check
    server.eventually("a check", function()
      check = s:processes("--check")[1]
      return check
    end)
    s:kill("TERM")
    assert.equal("the server is stopping\n1\n", pipe:read("*a"))
    pipe:close()
    s:wait_exit()
    assert.falsy(server.is_alive(check))
  end)

  it("needs a server, and says which file needs a restart", function()
    local s = start { reload = { watch = true } }
    finally(function() s:stop() end)
    server.sh("echo >>" .. s.dir .. "/conf/chowk.lua")
    server.eventually("the note", function() return s:log():find("conf/chowk.lua has changed", 1, true) end)
    s:kill("TERM")
    s:wait_exit()
    local out, code = chowk(s, "reload")
    assert.equal(1, code)
    assert.truthy(out:find("no chowk serves this directory", 1, true), out)
  end)
end)
