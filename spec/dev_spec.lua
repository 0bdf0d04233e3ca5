-- `chowk dev` with a database: private servers, migrations, the seed once, data that survives, nothing left running.
local server = require "spec.support.server"
local socket = require "socket"

local CHOWK = os.getenv "CHOWK"
local APP = [[
local app, pg = require "chowk.app", require "chowk.pg"
local routes = app.routes()
routes:get("/things", function() return pg.json("SELECT name FROM things ORDER BY name") end)
return routes
]]

describe("chowk dev", function()
  local dir, port, pid

  local function write(name, text)
    local f = assert(io.open(dir .. "/" .. name, "w"))
    f:write(text)
    f:close()
  end
  local function read(name)
    local f = io.open(dir .. "/" .. name)
    local text = f and f:read("*a") or ""
    if f then f:close() end
    return text
  end
  local function get(path)
    local out = server.sh(("curl -s -m 20 http://127.0.0.1:%d%s"):format(port, path))
    return out
  end
  local function is_alive(id) return id ~= nil and server.is_alive(id) end
  local function chowk(arguments)
    return server.sh(("cd %s && env -u DATABASE_URL -u REDIS_URL %s %s"):format(dir, CHOWK, arguments))
  end
  local function start()
    local out = server.sh(([[
      cd %s && rm -f pid exit
      unset DATABASE_URL REDIS_URL
      (PORT=%d sh -c 'echo $$ >pid; exec %s dev' >log 2>&1; echo $? >exit) >/dev/null 2>&1 &
      while ! [ -s pid ]; do sleep 0.01; done; cat pid]]):format(dir, port, CHOWK))
    pid = tonumber(out:match("%d+"))
    server.eventually("ready", function() return read("log"):find("\n  ready ") or not is_alive(pid) end, 90)
    assert.truthy(is_alive(pid), read("log"))
  end
  local function stop()
    server.sh("kill -INT " .. pid)
    server.eventually("exit", function() return read("exit"):find("\n") end, 60)
    assert.equal("0\n", read("exit"))
  end
  -- Processes that run in the application's var directory or serve it.
  local function leftovers() -- the bracket keeps pgrep's own shell out of the list
    return (server.sh("pgrep -f -- '[/]" .. dir:sub(2) .. "/var'; true"):gsub("%s", ""))
  end

  before_each(function()
    dir = server.sh("mktemp -d /tmp/chowk-dev.XXXXXX"):match("%S+")
    port = server.free_port()
    server.sh("chmod 755 " .. dir .. " && mkdir " .. dir .. "/migrations")
    write("app.lua", APP)
    write("migrations/0001_things.sql", "CREATE TABLE things (name text PRIMARY KEY);\n")
    write("migrations/seed.sql", "INSERT INTO things VALUES ('mug');\n")
  end)
  after_each(function()
    if is_alive(pid) then server.sh("kill -KILL " .. pid) end
    server.eventually("nothing left", function() return leftovers() == "" end, 30)
    server.sh("rm -rf $(readlink -f " .. dir .. "/var/pg) " .. dir)
  end)

  it("brings a database up, seeds it once, keeps the data and stops everything", function()
    start()
    assert.equal('[{"name":"mug"}]', get "/things")
    assert.truthy(read("log"):find("seeded    migrations/seed.sql", 1, true))
    local database = read("log"):match("psql ('[^\n]*')")
    server.sh("psql " .. database .. " -c \"INSERT INTO things VALUES ('poster')\"")
    stop()
    assert.equal("", leftovers())

    write("migrations/0002_more.sql", "INSERT INTO things VALUES ('tee');\n")
    write("migrations/seed.sql", "INSERT INTO things VALUES ('cap');\n")
    start()
    assert.equal('[{"name":"mug"},{"name":"poster"},{"name":"tee"}]', get "/things")
    assert.truthy(read("log"):find("migrated  migrations/0002_more.sql", 1, true))
    assert.truthy(read("log"):find("seed.sql has changed since it was applied", 1, true))

    local out, code = chowk "migrate status" -- on the running private server
    assert.equal(0, code)
    assert.truthy(out:find("done +migrations/0002_more.sql"), out)

    server.sh("kill -KILL " .. pid)
    server.eventually("nothing left", function() return leftovers() == "" end, 30)
    socket.sleep(0.1)
    start()
    assert.equal('[{"name":"mug"},{"name":"poster"},{"name":"tee"}]', get "/things")
    stop()
  end)

  it("starts a database again that was killed", function()
    start()
    local function server_pid(name)
      local found
      for id in read("log"):gmatch("embedded server started server=" .. name .. " pid=(%d+)") do found = id end
      return found
    end
    for _, name in ipairs { "PostgreSQL", "Redis" } do
      local old = server_pid(name)
      server.sh("kill -9 " .. old)
      server.eventually(name .. " is back", function() return server_pid(name) ~= old end, 60)
      server.eventually("a word of it", function()
        return read("log"):find("an embedded server has ended; starting it again server=" .. name, 1, true)
      end)
    end
    server.eventually("an answer", function() return get("/things"):find("mug", 1, true) end, 60)
    stop()
    assert.equal("", leftovers())
  end)

  it("says where a migration or the seed is wrong", function()
    write("migrations/seed.sql", "INSERT INTO things VALUES ('mug');\n\nINSERT INTO nothing VALUES (1);\n")
    local out, code = chowk "dev"
    assert.equal(1, code)
    assert.truthy(out:find('migrations/seed.sql:3: .*relation "nothing" does not exist'), out)
    assert.equal("", leftovers())
    write("migrations/0002_bad.sql", "SELECT 1;\nSELECT nonsense;\n")
    out, code = chowk "dev"
    assert.equal(1, code)
    assert.truthy(out:find('migrations/0002_bad.sql:2: .*column "nonsense" does not exist'), out)
  end)

  -- The README's tour, as `make run` gives it: the shop, and a Razorpay to pay at beside it.
  it("runs the sandbox beside the shop, as long as no Razorpay is given", function()
    server.sh(("rm -r %s/migrations %s/app.lua && cp -r lua migrations conf examples %s"):format(dir, dir, dir))
    local function sandbox() return read("log"):match("\n  razorpay +(http://127%.0%.0%.1:%d+)") end
    local function answers(url) return select(2, server.sh("curl -s -m 20 -o /dev/null " .. url)) == 0 end
    start()
    local first = assert(sandbox(), read("log"))
    local out, code = server.sh(("examples/buy/buy http://127.0.0.1:%d %s"):format(port, first))
    assert.equal(0, code, out)
    assert.truthy(out:find("confirmed and paid", 1, true))
    server.eventually("its webhooks", function()
      return read("log"):find("200 POST [^\n]*/api/webhooks/razorpay")
    end)
    server.sh("kill -KILL " .. pid)
    server.eventually("its end with us", function() return not answers(first) end)
    server.eventually("nothing left", function() return leftovers() == "" end, 30)

    local taken = assert(socket.bind("127.0.0.1", first:match "%d+$"))
    start()
    local second = sandbox()
    assert.are_not.equal(first, second)
    assert.is_true(answers(second))
    taken:close()
    stop()
    assert.is_false(answers(second))

    server.sh("mv " .. dir .. "/examples/razorpay-sandbox " .. dir .. "/elsewhere")
    out, code = chowk "dev"
    assert.equal(1, code)
    assert.truthy(out:find("razorpay.sandbox: examples/razorpay-sandbox: No such file or directory", 1, true), out)
    server.sh(("cd %s && sed -i 's|^return {|&\\n  razorpay = { url = \"http://127.0.0.1:9/v1\" },|' conf/chowk.lua")
      :format(dir))
    server.sh(("sed -i '/^  razorpay = {$/,/^  },/d' %s/conf/chowk.lua"):format(dir))
    start()
    assert.is_nil(sandbox())
    stop()
  end)
end)
