-- The command line without a server: help, exit codes, check, routes, config, run, migrate's misuse.
local server = require "spec.support.server"

local CHOWK = os.getenv "CHOWK"
local APP = [[
local app = require "chowk.app"
local routes = app.routes()
routes:get("/", { summary = "Says hello" }, function() return { hello = "world" } end)
routes:get("/items/:id", function(req) return { id = req.params.id } end)
return routes
]]

describe("the command line", function()
  local dir

  local function write(name, text)
    local f = assert(io.open(dir .. "/" .. name, "w"))
    f:write(text)
    f:close()
  end

  -- Runs chowk in the application's directory, without the test run's database → output, exit code.
  local function chowk(arguments, env)
    return server.sh(("cd %s && env -u DATABASE_URL -u REDIS_URL %s %s %s"):format(dir, env or "", CHOWK, arguments))
  end

  before_each(function()
    dir = server.sh("mktemp -d /tmp/chowk-cli.XXXXXX"):match("%S+")
    server.sh("mkdir " .. dir .. "/conf")
    write("app.lua", APP)
  end)
  after_each(function() server.sh("rm -rf " .. dir) end)

  it("says what it can do, and tells misuse from failure", function()
    local out, code = chowk "--help"
    assert.equal(0, code)
    for _, name in ipairs { "serve", "dev", "check", "migrate", "routes", "config", "run", "version", "reload", "stop",
      "status", "upgrade" } do
      assert.truthy(out:find("\n  " .. name, 1, true), name)
      local help, help_code = chowk(name .. " --help")
      assert.equal(0, help_code)
      assert.truthy(help:find("usage: chowk " .. name, 1, true))
    end
    for misuse, text in pairs { ["-C"] = "a directory is missing", ["migrate status now"] = 'argument "now"' } do
      out, code = chowk(misuse)
      assert.equal(2, code)
      assert.truthy(out:find(text, 1, true), out)
    end
    for _, misuse in ipairs { "", "sreve", "help sreve", "check --no-such-option", "routes a b", "run", "version x",
      "migrate up", "migrate new Bad-Name", "migrate status --dry-run" } do
      out, code = chowk(misuse)
      assert.equal(2, code, misuse .. "\n" .. out)
      assert.truthy(out:find "usage: chowk")
    end
    assert.equal(1, select(2, chowk "-C /no/such/directory version"))
  end)

  it("prints a version", function()
    local out, code = chowk "version"
    assert.equal(0, code)
    assert.truthy(out:find "^chowk %d+%.%d+%.%d+\n$")
  end)

  it("helps in 80 columns", function()
    local list = chowk "--help"
    for name in list:gmatch("\n  (%l+) ") do
      for line in (list .. chowk(name .. " --help")):gmatch("[^\n]+") do
        assert.is_true(#line:gsub("[\128-\191]", "") <= 80, line)
      end
    end
  end)

  it("checks an application", function()
    local out, code = chowk "check"
    assert.equal(0, code)
    assert.truthy(out:find "^ok: 2 routes, code %x+\n$")
    write("app.lua", "local app = require 'chowk.app'\nlocal x = = 1\n")
    out, code = chowk "check"
    assert.equal(1, code)
    assert.truthy(out:find("^app.lua:2: "), out)
    write("app.lua", "local app = require 'chowk.app'\n\nerror('not today')\n")
    out, code = chowk "check"
    assert.equal(1, code)
    assert.truthy(out:find("app.lua:3: not today", 1, true), out)
  end)

  it("does not wait for code that never ends", function()
    write("conf/chowk.lua", 'return { reload = { timeout = "100ms" } }')
    write("app.lua", "local n = 0\nwhile true do n = n + 1 end\n")
    for _, command in ipairs { "check", "routes" } do
      local out, code = server.sh(("cd %s && timeout 30 %s %s"):format(dir, CHOWK, command))
      assert.equal(1, code)
      assert.equal("app.lua:2: this still ran when the time for new code was over (reload.timeout)\n", out)
    end
  end)

  it("names both places of a route conflict", function()
    write("app.lua", APP:gsub("return routes", 'routes:get("/items/:other", function() return "x" end)\nreturn routes'))
    local out, code = chowk "check"
    assert.equal(1, code)
    assert.truthy(out:find("app.lua:4", 1, true) and out:find("app.lua:5", 1, true), out)
  end)

  it("says which parameter a pattern does not have", function()
    write("app.lua", [[
local app, t = require "chowk.app", require "chowk.schema"
local routes, inner = app.routes(), app.routes()
inner:get("/:id", { params = { shop = t.slug(), id = t.integer() } }, function() return "x" end)
routes:mount("/:shop", inner)
]] .. "return routes\n")
    assert.equal(0, select(2, chowk "check"))
    write("app.lua", [[
local app, t = require "chowk.app", require "chowk.schema"
local routes = app.routes()
routes:get("/items/:id", { params = { idd = t.integer() } }, function() return "x" end)
]] .. "return routes\n")
    local out, code = chowk "check"
    assert.equal(1, code)
    assert.equal('app.lua:3: params: the pattern /items/:id has no parameter "idd"\n', out)
  end)

  it("says which module is missing", function()
    os.remove(dir .. "/app.lua")
    local out, code = chowk "check"
    assert.equal(1, code)
    assert.equal('app.main (default): no module "app": there is no app.lua and no app/init.lua\n', out)
    write("conf/chowk.lua", 'return {\n  app = { root = "lua", main = "shop.main" } }')
    out, code = chowk "check"
    assert.equal(1, code)
    assert.truthy(out:find("app.root: .-/lua: No such file or directory"), out)
    server.sh("mkdir " .. dir .. "/lua")
    out = chowk "check"
    assert.equal('app.main (conf/chowk.lua:2): no module "shop.main": there is no lua/shop/main.lua and no '
      .. "lua/shop/main/init.lua\n", out)
  end)

  it("lists routes", function()
    local out, code = chowk "routes"
    assert.equal(0, code)
    assert.truthy(out:find("GET +/ +app.lua:3 +Says hello"), out)
    assert.truthy(out:find("GET +/items/:id +app.lua:4"), out)
  end)

  it("prints the configuration without its secrets", function()
    write("conf/chowk.lua", [[return {
      workers = 3,
      pg = { url = "postgresql://shop:hunter2@db/shop" },
      settings = { mail = { from = "a@b", password = "pw123" } },
    }]])
    local out, code = chowk("config", "RAZORPAY_KEY_SECRET=rzp_top_secret")
    assert.equal(0, code)
    assert.truthy(out:find("workers +3 +conf/chowk.lua:2\n"), out)
    assert.truthy(out:find("postgresql://shop:********@db/shop", 1, true), out)
    assert.truthy(out:find("razorpay.key_secret +%*+ +RAZORPAY_KEY_SECRET\n"), out)
    assert.truthy(out:find("settings.mail.from +a@b"), out)
    for _, secret in ipairs { "hunter2", "pw123", "rzp_top_secret" } do
      assert.falsy(out:find(secret, 1, true), secret)
    end
    out = chowk("config --dev")
    assert.truthy(out:find("environment +development +%-%-dev\n"), out)
    out, code = chowk "config --keys"
    assert.equal(0, code)
    assert.truthy(out:find("\npg.pool_size\n", 1, true))
  end)

  it("runs a file as a handler would run", function()
    write("conf/chowk.lua", "return { settings = { greeting = 'namaste' } }")
    write("helper.lua", "return { double = function(n) return 2 * n end }")
    write("job.lua", [[
      local helper, task = require "helper", require "chowk.task"
      counter = (counter or 0) + 1
      task.sleep(0.01)
      print("args", ...)
      return { n = helper.double(21) }, "done"
    ]])
    local out, code = chowk "run job.lua one --help"
    assert.equal("args\tone\t--help\n{\"n\":42}\ndone\n", out)
    assert.equal(0, code)
    write("bad.lua", "local x\n\nreturn x.y\n")
    out, code = chowk "run bad.lua"
    assert.equal(1, code)
    assert.truthy(out:find("bad.lua:3: attempt to index local 'x'", 1, true), out)
    out, code = chowk "run missing.lua"
    assert.equal(1, code)
    assert.truthy(out:find("missing.lua", 1, true))
  end)

  it("creates the next migration file", function()
    server.sh("mkdir " .. dir .. "/migrations && touch " .. dir .. "/migrations/0007_orders.sql")
    local out, code = chowk "migrate new add_gift_cards"
    assert.equal(0, code)
    assert.equal("migrations/0008_add_gift_cards.sql\n", out)
    local f = assert(io.open(dir .. "/migrations/0008_add_gift_cards.sql"))
    f:close()
  end)

  it("migrates nothing without a database", function()
    local out, code = chowk "migrate"
    assert.equal(1, code)
    assert.truthy(out:find("no database", 1, true), out)
  end)
end)
