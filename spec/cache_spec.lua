-- chowk.cache on one machine: one load per key, nothing old after a write (T13), and what happens when parts of it die.
local fixture = require "spec.support.cache"
local server = require "spec.support.server"
local socket = require "socket"

local eventually = server.eventually
local start, v = fixture.start, fixture.v
local n_loads, await_loads = fixture.n_loads, fixture.await_loads
local open_gate, close_gate = fixture.open_gate, fixture.close_gate

describe("chowk.cache", function()
  local s

  setup(function() s = start { workers = 1 } end)
  teardown(function() s:stop() end)

  it("loads once, then answers from memory, byte for byte", function()
    local first = s:get("/things/t1")
    s:exec("UPDATE things SET body = '{\"v\": 5}' WHERE id = 't1'")
    local second = s:get("/things/t1")
    assert.equal(200, second.status)
    assert.equal(first.body, second.body)
    assert.equal(1, n_loads(s, "t1"))
    assert.equal(first.body, s:get("/get/t1").body)
    assert.equal("application/json", second.headers["content-type"])
  end)

  it("loads again after tx:forget, with and without tx:commit, and after delete", function()
    assert.equal(204, s:put("/things/t2", { json = { v = 1 } }).status)
    assert.equal(1, v(s, "t2"))
    s:put("/things/t2", { json = { v = 2 } })
    assert.equal(2, v(s, "t2"))
    s:put("/things/t2?commit=1", { json = { v = 3 } })
    assert.equal(3, v(s, "t2"))
    s:post("/raw/t2", { json = { v = 4 } })
    assert.equal(3, v(s, "t2"))
    s:delete("/things/t2")
    assert.equal(4, v(s, "t2"))
    eventually("the records are gone", function() return s:sql("SELECT count(*) AS n FROM cache_forget")[1].n == 0 end)
  end)

  it("forgets by tag, and everything", function()
    assert.equal(0, v(s, "t3", "?tag=red"))
    assert.equal(0, v(s, "t4", "?tag=red"))
    assert.equal(0, v(s, "t5", "?tag=blue"))
    for _, id in ipairs { "t3", "t4", "t5" } do s:post("/raw/" .. id, { json = { v = 1 } }) end
    s:delete("/tags/red")
    assert.same({ 1, 1, 0 }, { v(s, "t3", "?tag=red"), v(s, "t4", "?tag=red"), v(s, "t5", "?tag=blue") })
    s:delete("/all")
    assert.equal(1, v(s, "t5", "?tag=blue"))
    s:put("/things/t3?tag=red", { json = { v = 2 } })
    assert.equal(2, v(s, "t3", "?tag=red"))
  end)

  it("remembers nothing only when asked to", function()
    for _ = 1, 2 do assert.equal(404, s:get("/things/none").status) end
    assert.equal(2, n_loads(s, "none"))
    for _ = 1, 3 do assert.equal(404, s:get("/things/never?neg=60").status) end
    assert.equal(1, n_loads(s, "never"))
  end)

  it("reloads when told to", function()
    assert.equal(0, v(s, "t6"))
    s:post("/raw/t6", { json = { v = 9 } })
    assert.equal(9, v(s, "t6", "?refresh=1"))
    assert.equal(9, v(s, "t6"))
  end)

  it("gives the same on a miss and on a hit, whatever the type", function()
    local both = s:get("/kinds").json
    assert.same(both[1], both[2])
    assert.is_true(both[1].is_nil and both[1].no)
    assert.same({ "plain", 12.5 }, { both[1].text, both[1].num })
    assert.truthy(s:get("/kinds").body:find('"b":null', 1, true))
    assert.truthy(s:get("/kinds").body:find('"list":[]', 1, true))
  end)

  it("loads many keys by one call", function()
    assert.equal(0, v(s, "t10"))
    local answer = s:get("/many?ids=t10,t11,t12,missing,t11")
    assert.equal(200, answer.status, answer.body)
    assert.same({ v = 0 }, answer.json.found["thing:t10"])
    assert.equal("t12", answer.json.found["thing:t12"].id)
    assert.is_nil(answer.json.found["thing:missing"])
    assert.same(answer.json.found, answer.json.got)
    assert.equal(1, n_loads(s, "many3"))
    s:get("/many?ids=t10,t11,t12")
    assert.equal(1, s:sql("SELECT count(*) AS n FROM loads WHERE key LIKE 'many%'")[1].n)
  end)

  it("raises what the loader raises, and does not keep it", function()
    local both = s:get("/raises").json
    assert.same({ "22012", "22012" }, { both[1].state, both[2].state })
    assert.equal(2, n_loads(s, "raises"))
  end)

  it("says what was done wrong", function()
    local expected = {
      number = "app.lua:%d+: cache: a key is a string, got number", empty = "app.lua:%d+: cache: an empty key",
      long = "a key of 251 bytes, at most 250", option = 'unknown option "tll"', loader = "got nil for the loader",
      tag = 'tag "a b" has white space', put = "cache.put does not exist", big = "has 2097152 bytes, cache.max_value",
      itself = 'the loader of "self" fetches the same key', fn = "what cannot be stored",
      tx = "inside a transaction: read through tx", tx_delete = "inside a transaction",
    }
    for what, text in pairs(expected) do
      local answer = s:get("/misuse/" .. what).json
      assert.is_false(answer.ok, what)
      assert.truthy(answer.text:find(text), what .. ": " .. answer.text)
    end
    assert.equal("invalid", s:get("/misuse/big").json.code)
  end)

  it("undoes tx:forget with its savepoint", function()
    for _, key in ipairs { "kept", "undone" } do assert.equal("1", s:get("/fetch/" .. key .. "?value=1").json.value) end
    s:get("/savepoint")
    assert.equal("2", s:get("/fetch/kept?value=2").json.value)
    assert.equal("1", s:get("/fetch/undone?value=2").json.value)
  end)

  -- T13: a loader that read the old row, a writer that commits, a loader that wants to store it.
  it("never keeps what was read before a write", function()
    close_gate(s, "old")
    local old = s:begin("GET", "/things/t20?gate=old")
    await_loads(s, "t20", 1)
    s:put("/things/t20", { json = { v = 1 } })
    assert.equal(1, v(s, "t20"))      -- does not wait for the old load either
    open_gate(s, "old")
    assert.equal(0, old().json.v)     -- it began before the write
    assert.equal(1, v(s, "t20"))
    s:delete("/all")
    assert.equal(1, v(s, "t20"))
    -- by tag, too: and who waited for the old load gets the new value
    close_gate(s, "old")
    old = s:begin("GET", "/things/t21?gate=old&tag=x")
    await_loads(s, "t21", 1)
    local waiting = s:begin("GET", "/things/t21?tag=x")
    eventually("somebody waits", function() return s:get("/stats").json.waits > 0 end)
    s:put("/things/t21?tag=x", { json = { v = 1 } })
    open_gate(s, "old")
    assert.equal(0, old().json.v)
    assert.equal(1, waiting().json.v)
    assert.equal(1, v(s, "t21", "?tag=x"))
  end)

  it("serves the old value while one caller loads the new one", function()
    assert.equal(0, v(s, "t22", "?ttl=0.05&stale=60"))
    s:post("/raw/t22", { json = { v = 1 } })
    socket.sleep(0.06)                -- the ttl itself
    close_gate(s, "slow")
    for _ = 1, 20 do assert.equal(0, v(s, "t22", "?ttl=60&stale=60&gate=slow")) end -- none waits
    await_loads(s, "t22", 2)
    open_gate(s, "slow")
    eventually("the new value", function() return v(s, "t22", "?ttl=60&stale=60") == 1 end)
    assert.equal(2, n_loads(s, "t22"))
  end)

  it("lets a refresh read what the handler had read of its request", function()
    local old = s:get("/late/x").json.value
    s:exec("INSERT INTO loads (key) VALUES ('late')")
    socket.sleep(0.06)                -- the ttl itself
    assert.equal(old, s:get("/late/x").json.value)
    eventually("the new value", function() return s:get("/late/x").json.value ~= old end)
  end)

  it("serves the old value when the new one cannot be loaded", function()
    assert.equal(0, v(s, "t23", "?ttl=0.05&stale=60"))
    s:post("/raw/t23", { json = { v = 1, fail = true } })
    socket.sleep(0.06)
    for _ = 1, 10 do assert.equal(0, v(s, "t23", "?ttl=60&stale=60")) end
    eventually("a word in the log", function() return s:log():find("a refresh failed", 1, true) ~= nil end)
    assert.truthy(n_loads(s, "t23") <= 3, "refreshes are not paced")
    s:post("/raw/t23", { json = { v = 2 } })
    eventually("the new value", function() return v(s, "t23", "?ttl=60&stale=60") == 2 end)
  end)

  it("hands a load on when its deadline ends it", function()
    close_gate(s, "held")
    local held = s:begin("GET", "/hold/t24?gate=held")
    await_loads(s, "t24", 1)
    local next_one = s:begin("GET", "/things/t24")
    assert.equal(503, held().status)
    assert.equal(0, next_one().json.v)
    assert.equal(2, n_loads(s, "t24"))
    open_gate(s, "held")
  end)

  it("forgets what a process committed that was killed before it could forget", function()
    assert.equal(0, v(s, "t9"))
    local doomed = s:begin("PUT", "/doomed/t9")
    eventually("its commit", function() return s:log():find("doomed", 1, true) ~= nil end)
    assert.equal(0, v(s, "t9"))       -- the memory does not know yet
    server.sh("kill -9 " .. s:processes()[1])
    assert.equal(0, doomed().status)
    eventually("the new value", function()
      local ok, value = pcall(v, s, "t9") -- refused while the worker is started again
      return ok and value == 77
    end)
    eventually("the record is gone", function() return s:sql("SELECT count(*) AS n FROM cache_forget")[1].n == 0 end)
  end)
end)
