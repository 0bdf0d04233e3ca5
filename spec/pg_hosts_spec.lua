-- Several hosts in one URL with target_session_attrs, and TLS with verify-full, against servers of the spec's own.
local server = require "spec.support.server"
local postgres = require "spec.support.pg"
local socket = require "socket"

local APP = [=[
local app, pg = require "chowk.app", require "chowk.pg"
local routes = app.routes()
routes:get("/who", {}, function()
  return pg.one("SELECT inet_server_port() AS port, pg_is_in_recovery() AS standby")
end)
routes:get("/write", {}, function()
  return pg.one("INSERT INTO t VALUES (1) RETURNING inet_server_port() AS port")
end)
routes:get("/tx", {}, function()
  return pg.tx(function(tx) return tx:one("SELECT inet_server_port() AS port, pg_is_in_recovery() AS standby") end,
    { read_only = true })
end)
routes:get("/tls", {}, function()
  return pg.one("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
end)
routes:get("/large", {}, function()
  local n = 0
  local rows = pg.copy_out("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 5000)) TO STDOUT",
    function(text) n = n + #text end)
  return { rows = rows, copied = n, selected = #pg.value("SELECT repeat('y', 5000000)") }
end)
return routes
]=]

local function serve(url) return server.start { app = APP, env = { DATABASE_URL = url }, config = { workers = 1 } } end

describe("several hosts", function()
  local primary, standby, silent, silent_port
  setup(function()
    primary = postgres.primary { port = server.free_port() }
    primary:sql("CREATE TABLE t (n int)")
    standby = primary:standby { port = server.free_port() }
    silent = assert(socket.bind("127.0.0.1", 0)) -- takes connections and never says a word
    silent_port = select(2, silent:getsockname())
  end)
  teardown(function()
    if silent then silent:close() end
    if standby then standby:drop() end
    if primary then primary:drop() end
  end)

  local function with(url, fn)
    local s = serve(url)
    local ok, err = pcall(fn, s, function(path)
      local answer
      server.eventually("an answer to " .. path, function()
        answer = s:get(path)
        return answer.status == 200
      end, 30)
      return answer.json
    end)
    s:stop()
    if not ok then error(err, 0) end
  end
  local function hosts(list, attrs)
    return ("postgresql://chowk@%s/postgres?target_session_attrs=%s&connect_timeout=1"):format(list, attrs)
  end
  local function both() return ("localhost:%d,127.0.0.1:%d"):format(standby.port, primary.port) end

  it("finds the primary, in every lane", function()
    for _, attrs in ipairs { "primary", "read-write" } do
      with(hosts(both(), attrs), function(_, get)
        assert.same({ port = primary.port, standby = false }, get("/who"))
        assert.same({ port = primary.port }, get("/write"))
        assert.same({ port = primary.port, standby = false }, get("/tx"))
      end)
    end
  end)

  it("finds a standby, and does without one where it may", function()
    local turned = ("127.0.0.1:%d,localhost:%d"):format(primary.port, standby.port)
    for _, attrs in ipairs { "standby", "read-only", "prefer-standby" } do
      with(hosts(turned, attrs), function(_, get)
        assert.same({ port = standby.port, standby = true }, get("/who"))
        assert.same({ port = standby.port, standby = true }, get("/tx"))
      end)
    end
    with(hosts("127.0.0.1:" .. primary.port, "prefer-standby"), function(_, get)
      assert.same({ port = primary.port, standby = false }, get("/who"))
    end)
  end)

  it("takes the first that answers, past one that refuses and one that is silent", function()
    local list = ("127.0.0.1:1,127.0.0.1:%d,localhost:%d"):format(silent_port, primary.port)
    with(hosts(list, "any"), function(_, get)
      assert.same({ port = primary.port }, get("/write"))
      assert.same({ port = primary.port, standby = false }, get("/tx"))
    end)
  end)

  it("asks nobody for names that come with their address", function()
    local url = ("postgresql://?host=a.invalid,b.invalid&hostaddr=127.0.0.1,127.0.0.1&port=%d,%d&user=chowk"
      .. "&dbname=postgres&target_session_attrs=primary"):format(standby.port, primary.port)
    with(url, function(_, get) assert.same({ port = primary.port }, get("/write")) end)
  end)

  it("says what is wrong with each host", function()
    local s = serve(hosts(("127.0.0.1:1,127.0.0.1:%d"):format(standby.port), "primary"))
    local answer = s:get("/who")
    server.eventually("the log tells", function()
      local log = s:log()
      return log:find("port 1 failed: Connection refused", 1, true)
        and log:find("server is in hot standby mode", 1, true)
    end)
    s:stop()
    assert.equal(503, answer.status)
  end)

  it("goes over to the standby that was promoted", function()
    with(hosts(both(), "primary"), function(_, get)
      assert.same({ port = primary.port }, get("/write"))
      primary:stop("QUIT")
      standby:sql("SELECT pg_promote()")
      assert.same({ port = standby.port }, get("/write"))
      assert.same({ port = standby.port, standby = false }, get("/tx"))
    end)
  end)
end)

describe("TLS to PostgreSQL", function()
  local dir, node, plain
  local function sh(command)
    local out, code = server.sh("cd " .. dir .. " && " .. command)
    assert(code == 0, command .. "\n" .. out)
  end
  setup(function()
    dir = server.sh("mktemp -d /tmp/chowk-tls.XXXXXX"):match("%S+")
    for _, ca in ipairs { "ca", "other" } do
      sh(("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=Spec CA %s'"
        .. " -keyout %s.key -out %s.pem"):format(ca, ca, ca))
    end
    sh "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=db -keyout server.key -out server.csr"
    sh("printf 'subjectAltName=DNS:localhost\\n' > ext && openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key"
      .. " -CAcreateserial -days 2 -extfile ext -out server.crt")
    node = postgres.primary { port = server.free_port(), before = function(n)
      sh(("cp server.crt server.key %s/data/ && chmod 600 %s/data/server.key"):format(n.dir, n.dir))
      sh(("chown --reference=%s/data/PG_VERSION %s/data/server.*"):format(n.dir, n.dir))
      n:configure("ssl = on")
    end }
    plain = postgres.primary { port = server.free_port() }
  end)
  teardown(function()
    if node then node:drop() end
    if plain then plain:drop() end
    if dir then server.sh("rm -rf " .. dir) end
  end)

  local function url(host, port, ca)
    return ("postgresql://chowk@%s:%d/postgres?sslmode=verify-full&sslrootcert=%s/%s.pem"):format(host, port, dir, ca)
  end
  local function refused(database_url, why)
    local s = serve(database_url)
    local answer, log = s:get("/tls"), nil
    server.eventually("the log tells why", function()
      log = s:log()
      return log:find("PostgreSQL cannot be reached", 1, true)
    end)
    s:stop()
    assert.equal(503, answer.status, answer.body)
    assert.truthy(log:find(why, 1, true), log)
  end

  it("is verified: chain and name", function()
    local s = serve(url("localhost", node.port, "ca"))
    local tls, large = s:get("/tls").json, s:get("/large").json
    s:stop()
    assert.same({ ssl = true, version = "TLSv1.3" }, tls)
    assert.same({ rows = 5000, copied = 5005000, selected = 5000000 }, large)
  end)

  it("refuses another name", function()
    refused(url("127.0.0.1", node.port, "ca"), 'does not match host name')
  end)
  it("refuses an unknown CA", function()
    refused(url("localhost", node.port, "other"), "certificate verify failed")
  end)
  it("refuses without its own CA file", function()
    refused(url("localhost", node.port, "absent"), "absent.pem")
  end)
  it("refuses a server without TLS", function()
    refused(url("localhost", plain.port, "ca"), "server does not support SSL")
  end)
end)
