-- chowk.seq: formatted numbers, unique over workers, restarts and kills, in and out of transactions.
local server = require "spec.support.server"
local holder = require "spec.support.holder"
local socket = require "socket"

local CHOWK = os.getenv "CHOWK"

local APP = [[
local app, seq, pg, task = require "chowk.app", require "chowk.seq", require "chowk.pg", require "chowk.task"
local routes = app.routes()
routes:get("/next", function() return { number = seq.next("order") } end)
routes:get("/many", function()
  local list = {}
  for i = 1, 50 do list[i] = seq.value("order") end
  return { numbers = list }
end)
routes:get("/block", function()
  local list = {}
  for i = 1, 500 do list[i] = seq.next("order") end
  return table.concat(list, " ")
end)
routes:get("/ticket", function() return { number = seq.value("ticket") } end)
routes:get("/pure", function() return { colon = seq.next("receipt") } end)
routes:get("/held", function()        -- every connection for transactions waits for a number, and none for another
  return pg.tx(function(tx)
    tx:query("SELECT 1")
    task.sleep(0.05)
    return { number = seq.next("order") }
  end)
end)
routes:get("/undone", function()
  local number
  local ok = pcall(pg.tx, function(tx)
    tx:exec("INSERT INTO marks VALUES (1)")
    number = seq.next("order")
    error("no")
  end)
  return { ok = ok, number = number, marks = pg.value("SELECT count(*) FROM marks") }
end)
routes:get("/skip/:number", function(req)
  return { skipped = seq.skip_past("order", (req.params.number:gsub("_", "-"))), next = seq.value "order" }
end)
routes:get("/misuse/:what", function(req)
  if req.params.what == "skip" then return seq.skip_past("ticket", "7") end
  if req.params.what == "unknown" then return seq.next("invoice") end
  if req.params.what == "number" then return seq.next(7) end
  return seq.next("ticket")
end)
routes:get("/tried/:times", function(req)
  local number, err
  for _ = 1, tonumber(req.params.times) do
    number, err = try(seq.next, "order")
    if err then break end
  end
  return { number = number, code = err and err.code }
end)
return routes
]]

-- The shop's own table and function.
local function schema()
  local f = assert(io.open("migrations/0003_orders.sql"))
  local text = f:read("*a")
  f:close()
  local tab = assert(text:match("CREATE TABLE sequences.-;[^\n]*\n"))
  local fn = assert(text:match("CREATE FUNCTION get_next_order_sequence.-%$%$;"))
  return tab .. fn .. "CREATE TABLE marks (n int);"
end

local CONFIG = {
  workers = 2,
  pg = { tx_connections = 2 },
  seq = { formats = { order = "PC{fy}-{n:6}", receipt = "R/{year}/{n:5}" }, periods = { ticket = "none" } },
}

describe("chowk.seq", function()
  local s

  setup(function()
    s = server.start { app = APP, config = CONFIG }
    s:exec(schema())
  end)
  teardown(function() s:stop() end)

  local function requests(path, n)
    local list = {}
    for i = 1, n do list[i] = { "GET", path } end
    return list
  end

  -- Adds the numbers of all answers to `seen`; a number twice fails.
  local function gather(seen, answers)
    for _, answer in ipairs(answers) do
      assert.equal(200, answer.status, answer.body)
      for _, number in ipairs(answer.json.numbers or { answer.json.number }) do
        assert.is_nil(seen[number], number)
        seen[number] = true
      end
    end
  end

  it("counts from one, in the format of the configuration", function()
    local now = os.date("!*t", os.time() + 19800)
    local first = now.month >= 4 and now.year or now.year - 1
    assert.equal(("PC%02d%02d-000001"):format(first % 100, (first + 1) % 100), s:get("/next").json.number)
    assert.equal(("R/%d/00001"):format(now.year), s:get("/pure").json.colon)
    assert.equal(1, s:get("/ticket").json.number)
    assert.equal(1, #s:sql("SELECT FROM sequences WHERE name = 'ticket' AND period = ''"))
  end)

  it("gives no number twice, over two workers", function()
    local seen = {}
    gather(seen, s:parallel(requests("/next", 200)))
    gather(seen, s:parallel(requests("/many", 100)))
    local n = 0
    for _ in pairs(seen) do n = n + 1 end
    assert.equal(200 + 100 * 50, n)
    -- many numbers, few calls of the database: leased ahead, and not without bound
    local value = s:sql("SELECT value FROM sequences WHERE name = 'order'")[1].value
    assert.is_true(value >= n and value <= n + 10000, value)
  end)

  it("works inside transactions, when they hold every connection", function()
    gather({}, s:parallel(requests("/held", 40)))
  end)

  it("is not undone by a rollback", function()
    local answer = s:get("/undone").json
    assert.is_false(answer.ok)
    assert.equal(0, answer.marks)
    assert.is_not_equal(answer.number, s:get("/next").json.number)
  end)

  it("says what to write instead", function()
    assert.equal(500, s:get("/misuse/unknown").status)
    assert.equal(500, s:get("/misuse/number").status)
    assert.equal(500, s:get("/misuse/raw").status)
    for _, text in ipairs { 'seq.next: there is no sequence "invoice": add it to seq.formats',
      "seq.next: expected the name of a sequence, got number", "has no format in seq.formats: write seq.value" } do
      assert.is_true(s:logged(text), text) -- each worker writes when it comes to it
    end
  end)

  it("raises what PostgreSQL says, and heals", function()
    s:exec("ALTER TABLE sequences RENAME TO away")
    -- what is leased is handed out first: fewer than a block, but for what both workers had under way
    assert.equal("pg_error", s:get("/tried/5000").json.code)
    s:exec("ALTER TABLE away RENAME TO sequences")
    server.eventually("a number", function() return s:get("/tried/1").json.number end)
  end)

  it("skips what turns out to be taken, never backwards", function()
    local value = s:get("/skip/PC9900_000001").json
    assert.is_false(value.skipped)
    local far = ("%06d"):format(value.next + 50000)
    local prefix = s:get("/next").json.number:match "^PC%d%d%d%d" .. "_"
    assert.same({ skipped = true, next = tonumber(far) + 1 }, s:get("/skip/" .. prefix .. far).json)
    local seen = {}
    for _, answer in ipairs(s:parallel(requests("/many", 20))) do
      for _, n in ipairs(answer.json.numbers) do
        assert.is_true(n > tonumber(far) and not seen[n])
        seen[n] = true
      end
    end
    assert.is_true(s:get("/skip/" .. prefix .. "000001").json.next > tonumber(far) + 1000)
    assert.equal(500, s:get("/misuse/skip").status)
    assert.truthy(s:logged("seq.skip_past: sequence"))
    assert.truthy(s:log():find("seq.skip_past: sequence .-ticket.- has no format in seq.formats"))
  end)

  it("stays unique when a worker is killed, and over a restart", function()
    local seen = {}
    gather(seen, s:parallel(requests("/many", 20)))
    local victim = s:processes("--worker")[1]
    server.sh("kill -9 " .. victim)
    server.eventually("another worker", function()
      local now = s:processes "--worker"
      return #now == 2 and now[1] ~= victim and now[2] ~= victim
    end)
    server.eventually("answers", function() return pcall(s.get, s, "/healthz") end)
    gather(seen, s:parallel(requests("/many", 20)))
    s:restart()
    gather(seen, s:parallel(requests("/many", 20)))
  end)

  it("stays unique when a process dies, or stands still, with all its locks in hand", function()
    local seen = {}
    s:restart() -- locks that nobody has held yet
    assert.truthy(holder.die(s, "chowk-seq") > 0)
    gather(seen, s:parallel(requests("/many", 20)))
    local held = holder.stop(s, "chowk-seq")
    assert.truthy(held.n_locks > 0)
    gather(seen, s:parallel(requests("/many", 20)))
    held:kill()
    gather(seen, s:parallel(requests("/many", 20)))
  end)

  it("is one memory for all workers", function()
    local inodes = {}
    for _, pid in ipairs(s:processes "--worker") do
      local maps = server.sh("cat /proc/" .. pid .. "/maps")
      inodes[#inodes + 1] = assert(maps:match("rw%-s %x+ %x+:%x+ (%d+) +/memfd:chowk%-seq"), maps)
    end
    assert.equal(2, #inodes)
    assert.equal(inodes[1], inodes[2])
  end)
end)

describe("chowk.seq on two machines with one PostgreSQL", function()
  it("gives no number twice in a hundred thousand, asked at once", function()
    local a = server.start { app = APP, config = CONFIG }
    local b = server.start { app = APP, config = CONFIG, url = function() return a.database_url end }
    finally(function() b:stop() a:stop() end)
    a:exec(schema())
    local seen, n, n_asked, from = {}, 0, 0, { a.port, b.port }
    local calls = a:flow(16, function()
      n_asked = n_asked + 1
      return n_asked <= 200 and { "GET", "/block", nil, port = from[n_asked % 2 + 1] } or nil
    end, function(_, answer)
      assert.equal(200, answer.status, answer.body)
      for number in answer.body:gmatch("%S+") do
        assert.is_nil(seen[number], number)
        seen[number], n = true, n + 1
      end
    end)
    assert.same({ 200, 100000 }, { calls, n })
    local value = a:sql("SELECT value FROM sequences WHERE name = 'order'")[1].value
    assert.truthy(value >= n and value <= n + 20000, value) -- leased ahead, by both, and not without bound
  end)
end)

describe("seq.formats", function()
  it("that could repeat or outgrow a number stop the start, with their line", function()
    local dir = server.sh("mktemp -d /tmp/chowk-seq.XXXXXX"):match("%S+")
    server.sh("mkdir " .. dir .. "/conf")
    local function refused(formats, message)
      local files = { ["app.lua"] = "return require('chowk.app').routes()",
        ["conf/chowk.lua"] = "return {\n  seq = {\n    formats = " .. formats .. ",\n  },\n}" }
      for name, text in pairs(files) do
        local f = assert(io.open(dir .. "/" .. name, "w"))
        f:write(text)
        f:close()
      end
      for _, command in ipairs { "serve", "check" } do
        local out, code = server.sh(("cd %s && env -u DATABASE_URL -u REDIS_URL %s %s"):format(dir, CHOWK, command))
        assert.equal(1, code)
        assert.equal("conf/chowk.lua:3: seq.formats: " .. message .. "\n", out)
      end
    end
    refused('{ order = "PC{fy}-{n:2}" }', "order: the width of {n:2} is too small: at least 4 digits, better 6")
    refused('{ order = "CHANDNI/{fy}-{n:6}" }', "order: numbers would be 19 characters long, 16 are allowed")
    refused('{ order = "PC_{n:6}" }', "order: only A-Z a-z 0-9 / - and {placeholders} may be in a number")
    refused('{ order = "PC{fy}" }', "order: a format has the counter once, with its width: {n:6}")
    refused("{ order = 7 }", "order: expected a string")
    server.sh("rm -rf " .. dir)
  end)
end)

describe("tx:gapless", function()
  local GAPLESS = [[
local app, pg, seq = require "chowk.app", require "chowk.pg", require "chowk.seq"
local routes = app.routes()
routes:get("/invoice/:how", function(req)
  return pg.tx(function(tx)
    local number = tx:gapless("invoice")
    tx:defer { { "INSERT INTO invoices VALUES ($1)", number } }
    if req.params.how == "undo" then app.fail(409, "undone") end
    return { number = number }
  end)
end)
routes:get("/old", function() return { number = pg.tx(function(tx) return tx:gapless("invoice/2019-20") end) } end)
routes:get("/undone", function()
  return pg.tx(function(tx)
    tx:savepoint(function()
      tx:gapless("invoice/2019-20")
      require("chowk.json").decode("not JSON: a run-time failure")
    end)
    tx:exec("SELECT 1")
    return { number = tx:gapless("invoice/2019-20") }
  end)
end)
routes:get("/misuse/:n", function(req)
  local cases = { function(tx) return tx:gapless("order") end, function(tx) return tx:gapless("invoice/19") end,
    function(tx) return tx:gapless(7) end, function() return seq.next("invoice") end,
    function(tx) tx:gapless("invoice"); tx:exec("SELECT 1") end,
    function(tx) tx:gapless("invoice"); tx:savepoint(function() end) end }
  return pg.tx(cases[tonumber(req.params.n)])
end)
return routes
]]
  local s
  setup(function()
    s = server.start { app = GAPLESS, config = { workers = 3,
      seq = { formats = { order = "PC{n:6}" }, gapless = { invoice = "INV{fy}/{n:6}" } } } }
    s:exec(schema() .. "; CREATE TABLE invoices (number text PRIMARY KEY)")
  end)
  teardown(function() s:stop() end)

  it("has no gap, whatever is undone or killed", function()
    local stop = socket.gettime() + 3
    local n_kills = 0
    repeat
      local calls = {}
      for i = 1, 60 do calls[i] = { "GET", i % 3 == 0 and "/invoice/undo" or "/invoice/keep" } end
      local killer = io.popen("sleep 0.01; kill -9 $(pgrep -P " .. s.pid
        .. " -f -- --worker | head -1) 2>/dev/null; echo done")
      pcall(s.parallel, s, calls)
      killer:read("*a")
      killer:close()
      n_kills = n_kills + 1
    until socket.gettime() > stop or n_kills == 5
    local rows = s:sql("SELECT count(*) AS n, min(number), max(number) FROM invoices")[1]
    assert.truthy(rows.n > 50)
    assert.truthy(rows.min:find("^INV%d%d%d%d/000001$"))
    assert.equal(rows.n, tonumber(rows.max:match("%d+$")))
  end)

  it("is given back with its savepoint, after which the transaction goes on", function()
    local before = s:get("/old").json.number:sub(-6)
    assert.equal(tonumber(before) + 1, tonumber(s:get("/undone").json.number:sub(-6)))
  end)

  it("counts a period that has ended, and says what it does not know", function()
    server.eventually("a worker", function() return pcall(s.get, s, "/old") end)
    assert.truthy(s:get("/old").json.number:find("^INV1920/"))
    local texts = { 'there is no sequence "order": add it to seq.gapless', '"19" is no period of sequence invoice',
      "expected the name of a sequence, got number", "take its numbers with tx:gapless",
      "tx:exec behind tx:gapless: everybody else waits", "tx:savepoint behind tx:gapless: everybody else waits" }
    for i, text in ipairs(texts) do
      assert.equal(500, s:get("/misuse/" .. i).status)
      assert.truthy(s:logged(text), text)
    end
  end)

  it("is a sequence of its own", function()
    local ok, why = pcall(server.start, { app = GAPLESS,
      config = { seq = { formats = { invoice = "X{n:6}" }, gapless = { invoice = "INV{n:6}" } } } })
    assert.falsy(ok)
    assert.truthy(tostring(why):find("invoice: a sequence is in seq.formats or in seq.gapless", 1, true), why)
  end)
end)
