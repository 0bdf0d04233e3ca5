-- An HTTP/1.1 service that misbehaves, for specs of calls out:  luajit tests/fault/upstream.lua
-- Prints its port and serves until its standard input ends. What it does is in the path:
--
--   /count            how many requests of each path came, as JSON   /echo          the request, as text
--   /status/503       that status                                    /to?URL        302 to URL (307 with /to307?URL)
--   /never            no answer                                      /drop          reads the request, closes
--   /once             the first answer of a connection is kept alive; to the second request it closes without a word
--   /chunks/N/SIZE    N chunks of SIZE bytes                         /drip/N        N bytes, one each 20 ms
--   /file?PATH        the file, as gzip                              /garbage       no HTTP
--   /short            ends before its Content-Length                 /lines         headers for ever
--   /after/MS         an answer after so long                        /badzip        says gzip, is not
local socket = require "socket"

local listener = assert(socket.bind("127.0.0.1", 0, 128))
listener:settimeout(0)
local _, port = listener:getsockname()
print(port)
io.stdout:flush()

local waits = {} -- coroutine → { sock, "r" | "w" | nil, due }
local counts = {}

local function wait(sock, what, seconds)
  waits[coroutine.running()] = { sock = sock, what = what, due = socket.gettime() + (seconds or 60) }
  coroutine.yield()
end

local function send(sock, text)
  local from = 1
  while from <= #text do
    local last, err, partial = sock:send(text, from)
    from = (last or partial) + 1
    if err == "closed" then error("gone", 0) end
    if from <= #text then wait(sock, "w") end
  end
end

-- `text` and what comes, until is_enough(text).
local function receive(sock, text, is_enough)
  while not is_enough(text) do
    wait(sock, "r")
    local data, err, partial = sock:receive(65536)
    text = text .. (data or partial)
    if err == "closed" then error("gone", 0) end
  end
  return text
end

local function answer(sock, body, more, status)
  send(sock, ("HTTP/1.1 %s X\r\nContent-Length: %d\r\n%s\r\n%s"):format(status or 200, #body, more or "", body))
end

local function read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read("*a")
  f:close()
  return text
end

local function counted()
  local out = {}
  for path, n in pairs(counts) do out[#out + 1] = ("%q: %d"):format(path, n) end
  return "{" .. table.concat(out, ",") .. "}"
end

local PATHS = {
  count = function(sock) answer(sock, counted()) end,
  echo = function(sock, _, request) answer(sock, request) end,
  status = function(sock, arg) answer(sock, "status", arg == "429" and "Retry-After: 0\r\n" or "", arg) end,
  to = function(sock, _, _, query) answer(sock, "moved", "Location: " .. query .. "\r\n", 302) end,
  to307 = function(sock, _, _, query) answer(sock, "moved", "Location: " .. query .. "\r\n", 307) end,
  never = function(sock) wait(sock, nil, 60) end,
  drop = function() error("gone", 0) end,
  once = function(sock, _, _, _, n)
    if n > 1 then error("gone", 0) end
    answer(sock, "once")
  end,
  chunks = function(sock, arg)
    local n, size = arg:match("^(%d+)/(%d+)$")
    local chunk = ("%x\r\n%s\r\n"):format(tonumber(size), ("x"):rep(tonumber(size)))
    send(sock, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ = 1, tonumber(n) do send(sock, chunk) end
    send(sock, "0\r\n\r\n")
  end,
  drip = function(sock, arg)
    send(sock, ("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"):format(arg))
    for _ = 1, tonumber(arg) do
      send(sock, ".")
      wait(sock, nil, 0.02)
    end
  end,
  file = function(sock, _, _, query) answer(sock, read(query), "Content-Encoding: gzip\r\n") end,
  badzip = function(sock) answer(sock, ("no gzip "):rep(100), "Content-Encoding: gzip\r\n") end,
  garbage = function(sock) send(sock, "SSH-2.0-OpenSSH_9.2\r\n\r\n") error("gone", 0) end,
  short = function(sock) send(sock, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes.") error("gone", 0) end,
  lines = function(sock)
    send(sock, "HTTP/1.1 200 OK\r\n")
    for i = 1, 10000 do send(sock, "X-Line-" .. i .. ": " .. ("y"):rep(100) .. "\r\n") end
    send(sock, "\r\n")
  end,
  after = function(sock, arg)
    wait(sock, nil, tonumber(arg) / 1000)
    answer(sock, "late")
  end,
}

local function serve(sock)
  local text, n = "", 0
  while true do
    text = receive(sock, text, function(t) return t:find("\r\n\r\n", 1, true) end)
    local head, rest = text:match("^(.-\r\n\r\n)(.*)$")
    local length = tonumber(head:lower():match("\r\ncontent%-length: (%d+)")) or 0
    rest = receive(sock, rest, function(t) return #t >= length end)
    local method, path, query = head:match("^(%u+) ([^ ?]+)%??(%S*)")
    n = n + 1
    counts[method .. " " .. path] = (counts[method .. " " .. path] or 0) + 1
    local name, arg = path:match("^/(%w+)/?(.*)$")
    PATHS[name](sock, arg, head .. rest:sub(1, length), query, n)
    if head:lower():find("\r\nconnection: close", 1, true) then return end
    text = rest:sub(length + 1)
  end
end

local function resume(co, ...)
  local ok, err = coroutine.resume(co, ...)
  if not ok and err ~= "gone" then io.stderr:write(tostring(err), "\n") end
end

local function start(sock)
  sock:settimeout(0)
  resume(coroutine.create(function()
    local ok, err = pcall(serve, sock)
    sock:close()
    if not ok then error(err, 0) end
  end))
end

local stdin = { getfd = function() return 0 end, dirty = function() return false end }
while true do
  local reads, writes, due = { listener, stdin }, {}, math.huge
  for _, w in pairs(waits) do
    if w.what == "r" then reads[#reads + 1] = w.sock end
    if w.what == "w" then writes[#writes + 1] = w.sock end
    due = math.min(due, w.due)
  end
  local r, w = socket.select(reads, writes, math.min(5, math.max(0, due - socket.gettime())))
  if r[stdin] then return end
  if r[listener] then
    local sock = listener:accept()
    if sock then start(sock) end
  end
  local now, ready = socket.gettime(), {}
  for co, x in pairs(waits) do
    if (x.what == "r" and r[x.sock]) or (x.what == "w" and w[x.sock]) or x.due <= now then ready[#ready + 1] = co end
  end
  for _, co in ipairs(ready) do
    waits[co] = nil
    resume(co)
  end
end
