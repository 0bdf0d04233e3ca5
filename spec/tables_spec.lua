-- examples/tables.sql: what chowk's own services keep, for an application that is not the shop. It must be what the
-- shop's migrations have made of the same tables, and whoever has not copied it must be told.
local server = require "spec.support.server"

local TABLES = { "sequences", "idempotency_keys", "cache_forget", "jobs", "cron_runs" }
local FUNCTIONS = { "get_next_order_sequence", "idempotency_claim", "job_fence", "job_complete" }
local APP = [[
local app, jobs, pg = require "chowk.app", require "chowk.jobs", require "chowk.pg"
jobs.define("note", function() end)
local routes = app.routes()
routes:post("/job", function() return 201, { id = jobs.enqueue("note", {}) } end)
routes:post("/forget", function() pg.tx(function(tx) tx:forget{ keys = "a" } end) return app.empty end)
routes:get("/other", function() return pg.one("SELECT * FROM jobs_of_mine") end)
return routes
]]

local function text()
  local f = assert(io.open("examples/tables.sql"))
  local all = f:read("*a")
  f:close()
  return all
end

local function list(names) return "('" .. table.concat(names, "', '") .. "')" end

-- Everything that makes these tables and functions work, in an order of its own.
local function shape(s)
  return s:sql([[SELECT * FROM (
    SELECT table_name || '.' || column_name AS what,
      concat_ws(' ', udt_name, is_nullable, column_default, is_identity) AS def
    FROM information_schema.columns WHERE table_name IN ]] .. list(TABLES) .. [[
    UNION ALL SELECT tablename || '/' || indexname, indexdef FROM pg_indexes WHERE tablename IN ]] .. list(TABLES) .. [[
    UNION ALL SELECT relname || '!' || conname, pg_get_constraintdef(c.oid) FROM pg_constraint c
      JOIN pg_class r ON r.oid = conrelid WHERE relname IN ]] .. list(TABLES) .. [[
    UNION ALL SELECT relname || ':', reloptions::text FROM pg_class WHERE relname IN ]] .. list(TABLES) .. [[
    UNION ALL SELECT proname || '()', pg_get_functiondef(oid) FROM pg_proc WHERE proname IN ]] .. list(FUNCTIONS) .. [[
    UNION ALL SELECT 'job_state ' || enumsortorder, enumlabel FROM pg_enum WHERE enumtypid = 'job_state'::regtype
  ) t ORDER BY what, def]])
end

describe("the tables of chowk's own services", function()
  it("are those of the shop", function()
    local shop = server.start { start = false }
    local own = server.start { start = false, app = APP }
    finally(function() own:stop() shop:stop() end)
    own:exec(text())
    local expected = shape(shop)
    assert.is_true(#expected > 50)
    assert.same(expected, shape(own))
  end)

  it("are asked for by name where they are missing", function()
    local s = server.start { app = APP }
    finally(function() s:stop() end)
    for _, path in ipairs { "/job", "/forget" } do
      local answer = s:post(path)
      assert.equal(500, answer.status)
      assert.truthy(answer.body:find("copy examples/tables.sql into migrations/", 1, true), answer.body)
    end
    assert.is_nil(s:get("/other").body:find("tables.sql", 1, true))
    s:exec(text())
    assert.equal(201, s:post("/job").status)
    assert.equal(204, s:post("/forget").status)
  end)
end)
