-- pg.page on a real server: every row once in every order, cursors that are exact and checked, index use, misuse.
local server = require "spec.support.server"

local APP = [=[
local app, pg = require "chowk.app", require "chowk.pg"
local routes = app.routes()
local LISTS = {
  id = { by = { "id" } },
  desc = { by = { "id" }, desc = true },
  at = { by = { "at", "id" }, desc = true, hide = { "at" } },
  name = { by = { "na\"me", "id" } },
  price = { by = { "price", "big", "id" }, hide = { "id", "big" } },
}
routes:get("/list/:name", {}, function(req)
  local options = { limit = tonumber(req.query.limit), cursor = req.query.cursor }
  for k, v in pairs(LISTS[req.params.name]) do options[k] = v end
  return pg.page("SELECT id, at, \"na\"\"me\", price, big FROM t WHERE id <= $1 -- all of them", options,
    req.query.upto or 1000)
end)
routes:get("/other", {}, function(req)
  return pg.page("SELECT id FROM t", { by = { "id" }, limit = 3, cursor = req.query.cursor })
end)
routes:get("/tx", {}, function()
  return pg.tx(function(tx)
    tx:exec("DELETE FROM t WHERE id > 2")
    local page = tx:page("SELECT id FROM t", { by = { "id" }, limit = 5 })
    return { page = page, replica = pcall(pg.replica.page, "SELECT 1 AS id", { by = { "id" } }) }
  end)
end)
routes:get("/replica", {}, function() return pg.replica.page("SELECT id FROM t", { by = { "id" }, limit = 1 }) end)

local function failure(...)
  local ok, err = pcall(pg.page, ...)
  return ok and "no error" or type(err) == "table" and err.code .. ": " .. err.message or err
end
routes:get("/misuse", {}, function()
  local by = { by = { "id" } }
  return {
    missing = failure("SELECT id FROM t WHERE id = $1", by), extra = failure("SELECT id FROM t", by, 1),
    column = failure("SELECT id FROM t", { by = { "nothing" } }),
    hide = failure("SELECT id FROM t", { by = { "id" }, hide = { "nothing" } }),
    null = failure("SELECT id, NULL::int AS n FROM t", { by = { "n", "id" }, limit = 1 }),
    option = failure("SELECT id FROM t", { by = { "id" }, order = "id" }), none = failure("SELECT id FROM t", {}),
    limit = failure("SELECT id FROM t", { by = { "id" }, limit = 1001 }),
    desc = failure("SELECT id FROM t", { by = { "id" }, desc = { "id" } }),
    number = failure("SELECT id FROM t", { by = { 1 } }), syntax = failure("SELECT id FORM t", by),
  }
end)
return routes
]=]

describe("pg.page", function()
  local s
  setup(function()
    s = server.start { app = APP, config = { workers = 1 } }
    s:exec [[
      CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL, "na""me" text NOT NULL, price numeric(20,4) NOT NULL,
                      big int8 NOT NULL);
      INSERT INTO t SELECT g, timestamptz '2026-11-23 06:00:00.123456+00' + (g / 3) * interval '1 microsecond',
        CASE g % 4 WHEN 0 THEN '' WHEN 1 THEN 'ü ''"\' WHEN 2 THEN repeat('long ', 100) ELSE 'n' || g END,
        (g % 5) * 0.0001, 9223372036854775807 - g % 7 FROM generate_series(1, 100) g]]
  end)
  teardown(function() s:stop() end)

  local function get(path)
    local answer = s:get(path)
    assert.equal(200, answer.status, answer.body)
    return answer.json, answer.body
  end
  local function walk(name, limit, upto)
    local items, cursor, n_pages = {}, nil, 0
    repeat
      local page = get("/list/" .. name .. "?limit=" .. limit .. (upto and "&upto=" .. upto or "")
        .. (cursor and "&cursor=" .. cursor or ""))
      for _, item in ipairs(page.items) do items[#items + 1] = item end
      cursor, n_pages = page.next_cursor, n_pages + 1
      assert(#page.items <= limit and n_pages < 200)
    until not cursor
    return items, n_pages
  end

  it("gives each row once, in order, whatever the type of the key", function()
    local orders = { id = "id", desc = "id DESC", at = "at DESC, id DESC", name = [["na""me", id]],
      price = "price, big, id" }
    for name, order in pairs(orders) do
      for _, limit in ipairs { 1, 7, 100, 1000 } do
        local items = walk(name, limit)
        local rows = s:sql([[SELECT id, price::text AS price, "na""me" AS name FROM t ORDER BY ]] .. order)
        assert.equal(100, #items, name)
        for i, row in ipairs(rows) do
          if name == "price" then
            assert.equal(row.price, items[i].price, name .. " " .. limit .. " " .. i)
          else
            assert.equal(row.id, items[i].id, name .. " " .. limit .. " " .. i)
          end
        end
      end
    end
  end)

  it("has no page after the last, and an empty one for nothing", function()
    local _, n_pages = walk("id", 50)
    assert.equal(2, n_pages)
    local _, body = get("/list/id?limit=5&upto=0")
    assert.equal('{"items":[],"next_cursor":null}', body)
  end)

  it("shows what is not hidden, NULLs and all", function()
    local item = get("/list/price?limit=1").items[1]
    assert.is_nil(item.id)
    assert.is_nil(item.big)
    assert.truthy(item.at)
    assert.equal("0.0000", item.price)
  end)

  it("tells a cursor that is none of this list", function()
    local cursor = get("/list/id?limit=3").next_cursor
    assert.truthy(cursor:find("^[%w_-]+$"))
    local wrong = { "", "abc", "~~~", cursor:sub(1, -2), cursor .. "A", ("x"):rep(5000), (cursor:gsub("^.", "_")),
      get("/list/desc?limit=3").next_cursor, get("/list/at?limit=3").next_cursor, get("/other").next_cursor }
    for i = 1, #cursor do -- each letter changed
      local c = cursor:sub(i, i) == "A" and "B" or "A"
      wrong[#wrong + 1] = cursor:sub(1, i - 1) .. c .. cursor:sub(i + 1)
    end
    for _, text in ipairs(wrong) do
      local answer = s:get("/list/id?limit=3&cursor=" .. text)
      assert.equal(422, answer.status, text)
      assert.equal("invalid_cursor", answer.json.code)
    end
    assert.equal(4, get("/list/id?limit=3&cursor=" .. cursor).items[1].id)
    assert.equal(4, get("/list/id?limit=50&cursor=" .. cursor).items[1].id) -- another limit is the same list
  end)

  it("tells a cursor whose column has another type by now", function()
    s:exec("CREATE TABLE changing AS SELECT 'x' || g AS k FROM generate_series(1, 9) g")
    local other = server.start { config = { workers = 1 }, env = { DATABASE_URL = s.database_url }, app = [=[
      local app, pg = require "chowk.app", require "chowk.pg"
      local routes = app.routes()
      routes:get("/", {}, function(req)
        return pg.page("SELECT k FROM changing", { by = { "k" }, limit = 2, cursor = req.query.cursor })
      end)
      return routes]=] }
    local cursor = other:get("/").json.next_cursor
    s:exec("DROP TABLE changing; CREATE TABLE changing AS SELECT g AS k FROM generate_series(1, 9) g")
    local answer, fresh = other:get("/?cursor=" .. cursor), other:get("/")
    other:stop()
    assert.equal(422, answer.status, answer.body)
    assert.equal(1, fresh.json.items[1].k)
  end)

  it("lets PostgreSQL use the index of the key", function()
    local plan = s:exec("SET enable_seqscan = off; "
      .. "EXPLAIN SELECT * FROM (SELECT id, at FROM t WHERE price >= 0\n) AS page "
      .. 'WHERE page."id" > 50 ORDER BY page."id" LIMIT 4')
    assert.truthy(plan:find("Index Cond: (id > 50)", 1, true), plan)
    assert.is_nil(plan:find("Sort", 1, true), plan)
  end)

  it("works in a transaction, and on a replica", function()
    assert.equal('{"items":[{"id":1}],"next_cursor":', (select(2, get("/replica"))):sub(1, 34))
    local j = get("/tx")
    assert.same({ { id = 1 }, { id = 2 } }, j.page.items)
    assert.is_false(j.replica)
  end)

  it("says what is wrong", function()
    s:exec("INSERT INTO t SELECT g, now(), '', 0, 0 FROM generate_series(200, 205) g")
    local m = get("/misuse")
    local expected = {
      missing = "has 1 parameters ($1 …), 0 were given", extra = "has 0 parameters", column = "nothing",
      hide = 'no column "nothing"', null = '"n" is NULL', option = 'unknown option "order"', none = "by must be a list",
      limit = "1 to 1000, got 1001", desc = "desc must be true or false", number = "item 1 is 1",
      syntax = "syntax error",
    }
    for name, text in pairs(expected) do
      assert.truthy(m[name]:find(text, 1, true), name .. ": " .. tostring(m[name]))
    end
  end)
end)
