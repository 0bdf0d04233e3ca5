-- conf/chowk.lua: mistakes stop the start with file and line; the environment is over the file; Lua sees the values.
local server = require "spec.support.server"

local CHOWK = os.getenv "CHOWK"

describe("configuration", function()
  local dir

  local function write(name, text)
    local f = assert(io.open(dir .. "/" .. name, "w"))
    f:write(text)
    f:close()
  end
  local function chowk(arguments, env)
    return server.sh(("cd %s && env -u DATABASE_URL -u REDIS_URL %s %s %s"):format(dir, env or "", CHOWK, arguments))
  end
  -- The start fails with exactly this line.
  local function refused(conf, message, env)
    write("conf/chowk.lua", conf)
    for _, command in ipairs { "serve", "check", "config" } do
      local out, code = chowk(command, env)
      assert.equal(1, code)
      assert.equal(message .. "\n", out)
    end
  end

  before_each(function()
    dir = server.sh("mktemp -d /tmp/chowk-config.XXXXXX"):match("%S+")
    server.sh("mkdir " .. dir .. "/conf")
    write("app.lua", "return require('chowk.app').routes()")
  end)
  after_each(function() server.sh("rm -rf " .. dir) end)

  it("names the line of a bad value", function()
    refused("return {\n  listen = '127.0.0.1:1',\n  pg = {\n    pool_size = 'ten',\n  },\n}",
      'conf/chowk.lua:4: pg.pool_size: expected 1..1000, got "ten"')
    refused("return {\n  drain = 30 }",
      'conf/chowk.lua:2: drain: expected a duration such as "30s" within 0..1h, got 30')
  end)

  it("tells the first of several mistakes, and that there are more", function()
    refused("return {\n  drain = 30,\n  htpp = 1,\n  workers = true,\n}",
      'conf/chowk.lua:2: drain: expected a duration such as "30s" within 0..1h, got 30 (and 2 more)')
  end)

  it("suggests the key that was meant", function()
    refused("return {\n  htpp = { max_body = '1MiB' },\n}",
      "conf/chowk.lua:2: htpp: unknown key; did you mean http?")
    refused("return {\n  colour_of_the_moon = 1,\n}", "conf/chowk.lua:2: colour_of_the_moon: unknown key; "
      .. "an application's own settings belong into settings = { … }")
    refused("return { http = {\n  max_boddy = '1MiB' } }",
      "conf/chowk.lua:2: http.max_boddy: unknown key; did you mean http.max_body?")
  end)

  it("reports Lua's own errors with their line", function()
    refused("return {\n  listen = = 1 }", "conf/chowk.lua:2: unexpected symbol near '='")
    refused("return {\n  pg = { url = file('/no/such') } }",
      "conf/chowk.lua:2: file: /no/such: No such file or directory")
  end)

  it("names the environment variable of a bad value", function()
    refused("return {}", 'PORT: expected 0..65535, got "http"', "PORT=http")
    refused("return {}", 'environment variable REDIS_URL: redis.url: expected a URL starting with "redis://" '
      .. 'or "rediss://" or "redis+sentinel://" or "rediss+sentinel://" or "unix://", got another string',
      "REDIS_URL=localhost")
  end)

  it("refuses development secrets in production", function()
    refused("return {\n  razorpay = { key_secret = 'development_key_secret' } }",
      "conf/chowk.lua:2: razorpay.key_secret: the development value is refused in production; "
      .. "set your own")
    refused("return {}",
      "RAZORPAY_WEBHOOK_SECRET: razorpay.webhook_secrets: the development value is refused in production; "
      .. "set your own", "RAZORPAY_WEBHOOK_SECRET=new,development_webhook_secret")
    local _, code = chowk("check", "RAZORPAY_WEBHOOK_SECRET=new,old")
    assert.equal(0, code)
    _, code = chowk("check --dev", "RAZORPAY_WEBHOOK_SECRET=development_webhook_secret")
    assert.equal(0, code)
  end)

  it("reads the environment over the file, and secrets from files", function()
    write("secret", "from-a-file\n")
    write("conf/chowk.lua", "return { listen = '0.0.0.0:1', redis = { url = 'redis://file:1' },\n"
      .. "  settings = { a = env('CHOWK_SPEC', 'default'), b = env('CHOWK_SPEC_NONE', 'default'),\n"
      .. "    c = file('secret') } }")
    local out = chowk("config", "PORT=2 REDIS_URL=redis://env:1 CHOWK_SPEC=set")
    assert.truthy(out:find("listen +0.0.0.0:2 +PORT\n"), out)
    assert.truthy(out:find("redis.url +redis://env:1 +REDIS_URL\n"), out)
    assert.truthy(out:find("settings.a +set"), out)
    assert.truthy(out:find("settings.b +default"), out)
    assert.truthy(out:find("settings.c +from%-a%-file"), out)
  end)

  it("reaches Lua with its types", function()
    write("conf/chowk.lua", "return { http = { deadline = '7s' },\n"
      .. "  settings = { shop = { name = 'Chandni' }, tax = 0.18 } }")
    write("show.lua", [[
      local config = require "chowk.config"
      return config.get("http.deadline"), config.settings.shop.name, config.settings.tax,
        config.get("http.max_body"), config.get("redis.url") == nil
    ]])
    local out, code = chowk "run show.lua"
    assert.equal("7000\nChandni\n0.18\n1048576\ntrue\n", out)
    assert.equal(0, code)
  end)

  it("cannot be changed from Lua, lists included", function()
    write("conf/chowk.lua", "return { settings = { states = { 'KA', { 'MH' } }, shop = { tags = { 'a' } } } }")
    write("show.lua", [[
      local settings = require "chowk.config".settings
      local states = settings.states
      states[1], states[2][1], states[3] = "changed", "changed", "added"
      settings.shop.tags[1] = nil
      return settings.states[1], settings.states[2][1], #settings.states, settings.shop.tags[1],
        pcall(function() settings.states = {} end)
    ]])
    local out = chowk "run show.lua"
    assert.truthy(out:find("^KA\nMH\n2\na\nfalse\n"), out)
  end)
end)
