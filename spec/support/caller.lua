-- The application of the specs of chowk.http: it calls what it is told to call and tells what came of it.
-- POST /call { fn = "get", url =, options = } → the answer, or the failure as { code, message, retryable, sent }.
return [==[
local app, http, pg, task, json = require "chowk.app", require "chowk.http", require "chowk.pg", require "chowk.task",
  require "chowk.json"
local routes = app.routes()

local function told(res) return { status = res.status, headers = res.headers, body = res.body, url = res.url } end
local function failed(err)
  return { code = err.code, message = err.message, retryable = err.retryable, sent = err.sent }
end

routes:post("/call", { max_body = 4194304 }, function(req)
  local o = req:json()
  local ok, res = pcall(http[o.fn], o.url, o.options)
  if ok then return told(res) end
  if type(res) == "string" then return 500, res end
  return 200, failed(res)
end)
routes:get("/quick", function() return "quick" end)
routes:get("/stats", function() return http.stats() end)
routes:get("/echo", function(req) return { id = req.id, headers = req.headers } end)
routes:get("/pass", function(req) return told(http.get(req.query.url, { headers = { A = "b" } })) end)
routes:get("/late", { deadline = "300ms" }, function(req) return http[req.query.fn](req.query.url).body end)
routes:get("/in-tx", function(req) return pg.tx(function() return http.get(req.query.url).body end) end)
routes:get("/json", function(req)
  local value, err = try(function() return http.get(req.query.url):json() end)
  return err and failed(err) or { value = value }
end)
routes:get("/stream", function(req)
  local res = http.stream(req.query.url, { max_body = tonumber(req.query.max), timeout = req.query.timeout })
  local n, parts, biggest = 0, 0, 0
  local ok, err = pcall(function()
    for bytes in res:chunks() do
      n, parts, biggest = n + #bytes, parts + 1, math.max(biggest, #bytes)
      if req.query.pause then task.sleep(tonumber(req.query.pause)) end
      if req.query.stop then res:close() break end
    end
  end)
  return { status = res.status, bytes = n, parts = parts, biggest = biggest, err = not ok and (err.code or err) or nil }
end)
routes:get("/relay", function(req)
  local res = http.stream(req.query.url)
  return app.stream(function(w) for bytes in res:chunks() do w:write(bytes) end end)
end)
routes:get("/leave", function(req) -- opened, and never read
  http.stream(req.query.url, { timeout = "200ms" })
  return "left"
end)
routes:get("/all", function(req)
  local fns = {}
  for i = 1, tonumber(req.query.n) do
    fns[i] = function()
      local res, err = try(http.get, req.query.url, { timeout = "3s" })
      return res and res.status or err.code
    end
  end
  return task.all(fns)
end)
return routes
]==]
