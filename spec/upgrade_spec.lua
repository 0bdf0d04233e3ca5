-- `chowk upgrade` and USR2: a new binary on the same sockets and shared memory, without losing a request; and whatever
-- is wrong with the new one, the old one goes on (T25).
local load = require "spec.support.load"
local server = require "spec.support.server"
local socket = require "socket"

local CHOWK = os.getenv "CHOWK"

-- A worker that finds the file `stuck` takes it away and never becomes ready.
local APP = [[
local app, cache, seq, task = require "chowk.app", require "chowk.cache", require "chowk.seq", require "chowk.task"
local pg = require "chowk.pg"
local N, DIR = "old", "@DIR@"
if os.rename(DIR .. "/stuck", DIR .. "/found") then while true do end end
local routes = app.routes()
routes:get("/healthz", function() return "ok" end)
routes:get("/readyz", function() return app.is_stopping() and 503 or 200, {} end)
routes:get("/work", function() task.sleep(0.005) return N end)
routes:get("/long", function() task.sleep(0.7) return N end)
routes:get("/tx", function()
  return pg.tx(function(tx) tx:query "SELECT pg_sleep(0.02)" return N end)
end)
routes:get("/limited", { limit = "few" }, function() return N end)
routes:get("/number", function() return { number = seq.value("order") } end)
routes:get("/cached", function()
  return cache.fetch("when", { ttl = "1h" }, function() return { at = tostring({}) } end)
end)
return routes
]]

local SEQUENCES = io.open("migrations/0003_orders.sql"):read("*a")
SEQUENCES = SEQUENCES:match("CREATE TABLE sequences.-;[^\n]*\n")
  .. SEQUENCES:match("CREATE FUNCTION get_next_order_sequence.-%$%$;")

describe("an upgrade", function()
  local s

  local function write(name, text)
    local f = assert(io.open(s.dir .. "/" .. name, "w"))
    f:write(text)
    f:close()
  end

  -- The application as it is on the disk from now on.
  local function save(n)
    write("app.lua", (APP:gsub("@DIR@", s.dir):gsub('"old"', '"' .. n .. '"')))
  end

  local function start(config)
    config = config or {}
    config.workers, config.jobs, config.reload = 2, { workers = 0 }, { watch = false }
    -- As in production: idle connections have a second to hear that they should go, not a fifth of one.
    config.environment, config.stop = "production", { lame_duck = 0 }
    config.razorpay = { key_id = "x", key_secret = "x", webhook_secrets = { "x" } }
    config.sandbox = { allow = { "os.rename" } }
    config.limit = { classes = { few = { limit = 3, window = "15m" } } }
    config.seq = { periods = { order = "none" } }
    config.upgrade = config.upgrade or { timeout = "20s" }
    local env = { REDIS_URL = "", LIMITS = "on" }
    s = server.start { app = "", config = config, env = env, binary = "bin", start = false }
    s.binary = s.dir .. "/bin"
    save "old"
    s:exec(SEQUENCES)
    s:start_process()
  end

  local function pid_file()
    local f = assert(io.open(s.dir .. "/var/run/chowk.pid"))
    local text = f:read("*a")
    f:close()
    return assert(tonumber(text:match("pid (%d+)")), text)
  end

  -- Keep-alive connections and ones that are new for each request, at once.
  local function under_load(path, n_anew)
    local kept, anew = load.start(s.port, 20, path or "/work"), load.start(s.port, n_anew or 8, path or "/work")
    anew.request = anew.request:gsub("\r\n\r\n$", "\r\nConnection: close\r\n\r\n")
    local l = {}
    function l.run(_, done, seconds)
      kept:run(function()
        anew:turn()
        return done()
      end, seconds or 60)
    end
    function l.answered() return kept.answered + anew.answered end
    function l.bodies(body) return (kept.bodies[body] or 0) + (anew.bodies[body] or 0) end
    function l.for_more(_, n)
      local before = l.answered()
      l:run(function() return l.answered() > before + n end)
    end
    function l.lost()
      kept:finish()
      anew:finish()
      assert.same({ {}, {} }, { kept.failed, anew.failed })
      assert.same({ 0, 0 }, { kept.refused, anew.refused })
    end
    l:for_more(200)
    return l
  end

  local function is_gone(pid) return not server.is_alive(pid) end

  local function upgraded(l, begin)
    local old = s.pid
    begin()
    l:run(function() return pid_file() ~= old end)
    s.pid = pid_file()
    l:run(function() return is_gone(old) end)
  end

  local function by_command(l)
    local done
    upgraded(l, function() done = s:chowk "upgrade" end)
    l:run(done)
    local code, out = done()
    assert.equal(0, code, out)
    assert.truthy(out:find(("upgraded: pid %d serves after "):format(s.pid), 1, true), out)
  end

  after_each(function()
    s:stop()
    s = nil
  end)

  it("loses no request, twice in a row, and leaves everything to the new master", function()
    start()
    local l = under_load()
    save "new"
    by_command(l)
    l:for_more(200)
    local first = s.pid
    save "newest"
    by_command(l)
    l:for_more(200)
    l.lost()
    assert.truthy(l.bodies "old" > 0 and l.bodies "new" > 0 and l.bodies "newest" > 0)
    assert.equal("newest", s:get("/work").body)
    assert.not_equal(first, s.pid)
    local out, code = server.sh("cd " .. s.dir .. " && " .. CHOWK .. " status")
    assert.equal(0, code, out)
    assert.truthy(out:find("pid " .. s.pid, 1, true), out)
    assert.equal(0, select(2, server.sh("cd " .. s.dir .. " && " .. CHOWK .. " reload")))
    out, code = server.sh("cd " .. s.dir .. " && " .. CHOWK .. " stop")
    assert.equal(0, code, out)
    assert.truthy(out:find("stopped: pid " .. s.pid, 1, true), out)
    assert.truthy(is_gone(s.pid))
    assert.is_nil(socket.connect("127.0.0.1", s.port))
    assert.falsy(s:log():find("did not stop cleanly", 1, true), s:log())
  end)

  it("is what USR2 does, finishes what the old one has begun, and keeps shared memory", function()
    start()
    local cached = s:get("/cached").body
    assert.equal(cached, s:get("/cached").body)
    assert.equal(200, s:get("/limited").status)
    assert.equal(200, s:get("/limited").status)
    local number = s:get("/number").json.number
    local l = under_load()
    local slow = assert(socket.connect("127.0.0.1", s.port))
    slow:send("GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    l:for_more(100) -- accepted after it
    save "new"
    upgraded(l, function() s:kill "USR2" end)
    l.lost()
    assert.equal("old", slow:receive("*a"):match("\r\n\r\n(.*)"))
    slow:close()
    assert.equal(cached, s:get("/cached").body)
    assert.equal(200, s:get("/limited").status)
    assert.equal(429, s:get("/limited").status)
    assert.equal(number + 1, s:get("/number").json.number) -- from the block that was leased before
  end)

  it("keeps the old and the new workers' connections within the machine's", function()
    start { pg = { pool_size = 24 } }
    local function n_connections()
      return s:sql("SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()")[1].n - 1 -- psql's
    end
    local l, most = under_load "/tx", 0
    server.eventually("all connections for transactions", function()
      l:for_more(40)
      return n_connections() >= 12
    end)
    local before = n_connections()
    save "new"
    local old, done = s.pid, s:chowk "upgrade"
    l:run(function()
      most = math.max(most, n_connections())
      return done() and is_gone(old)
    end)
    s.pid = pid_file()
    assert.truthy(most <= before + 2 * 3 + 2, most .. ", were " .. before) -- new workers begin with one of each lane
    l:run(function() return n_connections() >= before end)
    l.lost()
  end)

  local function refused(l, expected, prepare)
    local old = s.pid
    prepare()
    local done = s:chowk "upgrade"
    l:run(done)
    local code, out = done()
    assert.equal(1, code, out)
    assert.truthy(out:find(expected, 1, true), out)
    assert.equal(old, pid_file())
    l:for_more(50)
  end

  local function binary(text)
    return function()
      os.remove(s.binary)
      write("bin", text)
      server.sh("chmod +x " .. s.binary)
    end
  end

  it("onto what does not work leaves the old one serving, and says why", function()
    start()
    local l = under_load()
    refused(l, "cannot run " .. s.binary, function() os.remove(s.binary) end)
    refused(l, "the new master exited with status 127", binary "neither a program nor a script")
    refused(l, "the new master exited with status 3", binary "#!/bin/sh\nexit 3\n")
    refused(l, "the new master was ended by signal 9", binary "#!/bin/sh\nkill -9 $$\n")
    refused(l, "the new master exited with status 0",
      binary("#!/bin/sh\nexec python3 " .. server.sh("pwd"):match("%S+") .. "/tests/fault/heir.py dies\n"))
    server.sh("ln -sf " .. CHOWK .. " " .. s.binary)
    refused(l, "app.lua:2: oops", function() write("app.lua", "\nerror 'oops'") end)
    save "new"
    by_command(l) -- none of it stands in the way
    l.lost()
    assert.equal("new", s:get("/work").body)
  end)

  it("that takes too long is given up, and what its workers have accepted is answered", function()
    start { upgrade = { timeout = "3s" } }
    local l = under_load("/long", 32)
    refused(l, "not ready within 3000 ms", binary "#!/bin/sh\nexec sleep 100\n")
    server.eventually("its end", function() return server.sh("pgrep -P " .. s.pid .. " sleep") == "" end)
    server.sh("ln -sf " .. CHOWK .. " " .. s.binary)
    save "new"
    write("stuck", "")
    refused(l, "not ready within 3000 ms", function() end)
    l.lost()
    assert.truthy(l.bodies "new" > 0) -- its one ready worker did accept
    assert.equal(200, s:get("/readyz").status)
    assert.equal("old", s:get("/work").body)
  end)
end)
