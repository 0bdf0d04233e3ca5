-- pg.copy_in and pg.copy_out on a real server: rows in and out, back-pressure, errors, deadlines, a client that leaves.
local server = require "spec.support.server"
local socket = require "socket"

local APP = [=[
local app, pg, json, task = require "chowk.app", require "chowk.pg", require "chowk.json", require "chowk.task"
local routes = app.routes()

local function failure(fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then return "no error" end
  return type(err) == "table" and { code = err.code, sqlstate = err.sqlstate, message = err.message } or err
end

local AWKWARD = 'tab\there "quoted" back\\slash\nline\r\\N \\. \b\f\v ü'

routes:get("/rows", {}, function()
  local n = pg.copy_in("COPY things (id, name, price, tags, doc, ok) FROM STDIN", {
    { 1, AWKWARD, "12.5000", pg.array { "a,b", pg.null, 'q"' }, pg.jsonb { deep = { 1, json.null } }, true },
    { 2, nil, pg.null, nil, nil, false },
    { 3, "", 0.1, pg.array {}, pg.jsonb(json.null), nil },
  })
  return { n = n, same = pg.value("SELECT name FROM things WHERE id = 1") == AWKWARD,
    rows = pg.json("SELECT * FROM things ORDER BY id") }
end)

routes:get("/writer", {}, function()
  local n = pg.copy_in("COPY numbers FROM STDIN", function(w)
    for i = 1, 60000 do w:row { i, "row number " .. i } end
    w:write("60001\tby hand\n")
    w:row { 60002, "after" }
  end)
  return { n = n, rows = pg.one("SELECT count(*) AS n, sum(n) AS sum, count(DISTINCT t) AS texts FROM numbers") }
end)

routes:get("/busy", { deadline = "60s" }, function() -- a writer that is never made to wait by the server
  local n, chunk = 0, ("1\tx\n"):rep(10000)
  pg.copy_in("COPY nothing FROM STDIN", function(w)
    while n < 2e10 do w:write(chunk) n = n + #chunk end
  end)
end)
routes:get("/quick", {}, function() return { ok = true } end)

routes:get("/csv", {}, function()
  local n = pg.copy_in("COPY numbers FROM STDIN WITH (FORMAT csv)", function(w) w:write('900001,"a ""b"""\n') end)
  return { n = n, t = pg.value("SELECT t FROM numbers WHERE n = 900001"),
    row = failure(pg.copy_in, "COPY numbers FROM STDIN WITH (FORMAT csv)", { { 1, "x" } }) }
end)

routes:get("/errors", {}, function()
  local swallowed
  local out = {
    cell = failure(pg.copy_in, "COPY few FROM STDIN", { { 1, "x" }, { "no number", "y" } }),
    early = failure(pg.copy_in, "COPY few FROM STDIN", function(w)
      for i = 1, 100000000 do w:row { "no number", ("x"):rep(100) } end
    end),
    raised = failure(pg.copy_in, "COPY few FROM STDIN", function(w) w:row { 777, "x" } error("stop here", 0) end),
    swallowed = failure(pg.copy_in, "COPY few FROM STDIN", function(w)
      w:row { 778, "x" }
      swallowed = failure(w.row, w, { 1, "x", "too many" })
      pcall(w.row, w, { 2, {} })
      w:row { 779, "y" }
    end),
    table = failure(pg.copy_in, "COPY nowhere FROM STDIN", {}),
    out_row = failure(pg.copy_out, "COPY (SELECT 1 / (5 - g) FROM generate_series(1, 9) g) TO STDOUT", function() end),
    fn = failure(pg.copy_out, "COPY (SELECT generate_series(1, 10000000)) TO STDOUT",
      function() error("enough", 0) end),
    file = failure(pg.copy_in, "COPY few FROM '/etc/passwd'", {}),
    program = failure(pg.copy_out, "COPY few TO PROGRAM 'cat'", function() end),
    two = failure(pg.copy_in, "COPY few FROM STDIN; DROP TABLE few", {}),
    query = failure(pg.query, "COPY few FROM STDIN"),
    tx = pg.tx(function() return failure(pg.copy_in, "COPY few FROM STDIN", {}) end),
  }
  out.too_many = swallowed
  out.left = pg.query("SELECT n FROM few WHERE n BETWEEN 700 AND 800 ORDER BY n")
  return out
end)

routes:get("/export", {}, function()
  return app.stream(function(w)
    local n = pg.copy_out("COPY (SELECT g, repeat('x', 1000) FROM generate_series(1, 40000) g) TO STDOUT (FORMAT csv)",
      function(text) w:write(text) end)
    w:write("rows: " .. n .. "\n")
  end, { content_type = "text/csv" })
end)

routes:get("/out", {}, function()
  local parts, largest = {}, 0
  local n = pg.copy_out("COPY (SELECT generate_series(1, 50000)) TO STDOUT", function(text)
    parts[#parts + 1], largest = text, math.max(largest, #text)
    if #parts == 2 then task.sleep(0.01) end
  end)
  local all = table.concat(parts)
  return { n = n, lines = select(2, all:gsub("\n", "")), pieces = #parts > 1, whole = all:sub(-6) == "50000\n" }
end)

routes:get("/late-in", { deadline = "300ms" }, function()
  pg.copy_in("COPY few FROM STDIN", function(w) w:row { 801, "late" } task.sleep(10) end)
end)
routes:get("/blocked", { deadline = "300ms" }, function()   -- the table is locked: the server does not say go on
  pg.copy_in("COPY locked FROM STDIN", { { 1 } })
end)
routes:get("/late-out", { deadline = "300ms" }, function()
  pg.copy_out("COPY (SELECT pg_sleep(15)) TO STDOUT", function() end)
end)
routes:get("/hang", {}, function()
  pg.copy_in("COPY few FROM STDIN", function(w) w:row { 802, "gone" } task.sleep(20) end)
end)
local abandoned
routes:get("/abandon/:direction", {}, function(req)
  local function copy()
    if req.params.direction == "in" then
      pg.copy_in("COPY few FROM STDIN", function(w) w:row { 803, "left" } coroutine.yield() end)
    else
      pg.copy_out("COPY (SELECT generate_series(1, 10000000)) TO STDOUT", function() coroutine.yield() end)
    end
  end
  abandoned = coroutine.create(copy) -- kept: no collector will free it
  coroutine.resume(abandoned)
  return { is_open = coroutine.status(abandoned) == "suspended" }
end)
return routes
]=]

local COPIES = "SELECT count(*) AS n FROM pg_stat_activity WHERE query ILIKE 'COPY%' AND state = 'active' "
  .. "AND datname = current_database()"

describe("COPY", function()
  local s
  setup(function()
    s = server.start { app = APP, config = { workers = 1, pg = { tx_connections = 2 } } }
    s:exec [[
      CREATE TABLE things (id int, name text, price numeric(20,4), tags text[], doc jsonb, ok bool);
      CREATE TABLE locked (n int); CREATE TABLE few (n int, t text);
      CREATE TABLE numbers (n int, t text)]]
  end)
  teardown(function() s:stop() end)

  local function get(path)
    local answer = s:get(path)
    assert.equal(200, answer.status, answer.body)
    return answer.json, answer.body
  end
  local function is_free() server.eventually("no COPY runs", function() return s:sql(COPIES)[1].n == 0 end, 5) end

  it("takes rows of every type", function()
    local j, body = get("/rows")
    assert.equal(3, j.n)
    assert.is_true(j.same)
    for _, part in ipairs { '"price":"12.5000","tags":["a,b",null,"q\\""],"doc":{"deep": [1, null]},"ok":true',
      '{"id":2,"name":null,"price":null,"tags":null,"doc":null,"ok":false}',
      '{"id":3,"name":"","price":"0.1000","tags":[],"doc":null,"ok":null}' } do
      assert.truthy(body:find(part, 1, true), part .. " is not in " .. body)
    end
  end)

  it("streams many rows with little memory", function()
    local j = get("/writer")
    assert.equal(60002, j.n)
    assert.same({ n = 60002, sum = 60002 * 60003 / 2, texts = 60002 }, j.rows)
  end)

  it("lets others have their turn", function()
    s:exec("CREATE TABLE nothing (n int, t text)")
    s:exec("CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    s:exec("CREATE TRIGGER skip BEFORE INSERT ON nothing FOR EACH ROW EXECUTE FUNCTION skip()")
    local busy = assert(socket.connect("127.0.0.1", s.port))
    busy:send("GET /busy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    server.eventually("the COPY runs", function() return s:sql(COPIES)[1].n == 1 end)
    get("/quick")
    assert.equal(1, s:sql(COPIES)[1].n)   -- still at it
    busy:setoption("linger", { on = true, timeout = 0 })
    busy:close()
    is_free()
  end)

  it("writes other formats as bytes only", function()
    local j = get("/csv")
    assert.equal(1, j.n)
    assert.equal('a "b"', j.t)
    assert.truthy(j.row:find("w:write", 1, true), j.row)
  end)

  it("fails cleanly, and keeps nothing of what failed", function()
    local j = get("/errors")
    assert.equal("22P02", j.cell.sqlstate)
    assert.equal("22P02", j.early.sqlstate)   -- long before all rows were sent
    assert.equal("stop here", j.raised)
    assert.equal("no error", j.swallowed)
    assert.truthy(j.too_many:find("more than the 2 columns", 1, true), j.too_many)
    assert.equal("42P01", j.table.sqlstate)
    assert.equal("22012", j.out_row.sqlstate)
    assert.equal("enough", j.fn)
    for _, name in ipairs { "file", "program", "two" } do
      assert.truthy(j[name]:find("expected one statement, COPY", 1, true), name .. ": " .. tostring(j[name]))
    end
    assert.truthy(j.query.message:find("pg.copy_in", 1, true))
    assert.truthy(j.tx:find("a transaction is open", 1, true), j.tx)
    assert.same({ { n = 778 }, { n = 779 } }, j.left)
    is_free()
  end)

  it("reads in pieces of whole rows", function()
    assert.same({ n = 50000, lines = 50000, pieces = true, whole = true }, get("/out"))
  end)

  it("streams to a client that reads slowly, in bounded memory", function()
    local function resident()
      local out = server.sh("ps -o rss= --ppid " .. s.pid)
      local most = 0
      for kib in out:gmatch("%d+") do most = math.max(most, tonumber(kib)) end
      return most
    end
    local client = assert(socket.connect("127.0.0.1", s.port))
    client:send("GET /export HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert(client:receive(1000))
    local before = resident()
    server.eventually("the export waits", function() return s:sql(COPIES)[1].n == 1 end)
    socket.sleep(0.3)
    assert.equal(1, s:sql(COPIES)[1].n)
    assert(resident() < before + 12000, "40 MB were read ahead of the client")
    local rest = client:receive("*a")
    assert.truthy(rest:find("rows: 40000\n", 1, true))
    client:close()
    is_free()
  end)

  it("ends at the deadline, in each direction", function()
    assert.equal(503, s:get("/late-in").status)
    assert.equal(503, s:get("/late-out").status)
    is_free()
    local lock = s:hold "BEGIN; LOCK locked"
    assert.equal(503, s:get("/blocked").status)
    is_free()
    lock:close()
    assert.equal(0, s:sql("SELECT count(*) AS n FROM few WHERE n IN (801, 802)")[1].n)
  end)

  it("ends when the client goes away, or streams to nobody", function()
    for _, path in ipairs { "/hang", "/export" } do
      local client = assert(socket.connect("127.0.0.1", s.port))
      client:send("GET " .. path .. " HTTP/1.1\r\nHost: x\r\n\r\n")
      server.eventually("the COPY runs", function() return s:sql(COPIES)[1].n == 1 end)
      client:setoption("linger", { on = true, timeout = 0 })
      client:close()
      is_free()
    end
    assert.equal(0, s:sql("SELECT count(*) AS n FROM few WHERE n = 802")[1].n)
  end)

  it("ends with the request that left it open", function()
    for _ = 1, 2 do -- more than there are connections
      for _, direction in ipairs { "in", "out" } do
        assert.same({ is_open = true }, get("/abandon/" .. direction))
      end
    end
    is_free()
    assert.equal(3, get("/rows").n)
    assert.equal(0, s:sql("SELECT count(*) AS n FROM few WHERE n = 803")[1].n)
  end)

  it("survives the loss of its connection", function()
    local client = assert(socket.connect("127.0.0.1", s.port))
    client:send("GET /hang HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    server.eventually("the COPY runs", function() return s:sql(COPIES)[1].n == 1 end)
    s:exec("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query ILIKE 'COPY%'"
      .. " AND datname = current_database() AND pid <> pg_backend_pid()")
    client:close()
    assert.same({ n = 50000, lines = 50000, pieces = true, whole = true }, get("/out"))
    for _ = 1, 4 do get("/rows") end   -- more often than there are connections: none was lost for good
  end)
end)
