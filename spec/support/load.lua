-- Load that counts what a shop would lose: keep-alive connections that each send the next request as soon as an answer
-- is whole, and reconnect when the server says `Connection: close`. A request that was sent and not answered in full is
-- a failure, whatever the reason; a connection that is refused sent nothing, and is counted apart.
--
--   local l = load.start(port, 32, "/path")
--   l:run(0.5)                          turns for that long;  l:run(fn, 20) until fn() is true, at most 20 seconds
--   l:finish()                          no new requests; waits for the answers in flight
--   l.answered  l.failed (texts)  l.refused  l.bodies[body] = how often
--   l.before = function(conn)  before a request leaves;  l.check = function(conn, head, body) → what is wrong, or nil
--   l.excuse = function(conn, why) → true: it is no failure, but counted in l.excused
--   l:watch_owners()  answers begin with the pid of their worker; l:dies(pid) before one is killed excuses the requests
--                     of connections that were open to it; at most l.n_open of them, counted at each death
local socket = require "socket"

local M = {}
local Load = {}
Load.__index = Load

local function open(self, conn)
  conn.sock = socket.tcp()
  conn.sock:settimeout(0)
  conn.data, conn.is_connected, conn.opened_at, conn.owner = "", false, socket.gettime(), nil
  local ok, err = conn.sock:connect("127.0.0.1", self.port)
  if not ok and err ~= "timeout" and err ~= "Operation already in progress" then self:refuse(conn) end
end

function Load:refuse(conn)
  self.refused = self.refused + 1
  conn.sock:close()
  conn.sock = nil
  conn.again = socket.gettime() + 0.05
end

function Load:fail(conn, why)
  if self.excuse and self.excuse(conn, why) then
    self.excused = self.excused + 1
  else
    self.failed[#self.failed + 1] = why .. " after " .. #conn.data .. " bytes, request "
      .. conn.n .. " of its connection"
  end
  conn.sock:close()
  conn.sock = nil
end

local function send(self, conn)
  if self.is_finishing then
    conn.sock:close()
    conn.sock = nil
    return
  end
  conn.n, conn.data = conn.n + 1, ""
  if self.before then self.before(conn) end
  local sent, err = conn.sock:send(self.request)
  if sent ~= #self.request then self:fail(conn, "send: " .. tostring(err)) end
end

local function take_answer(self, conn)
  local head_end = conn.data:find("\r\n\r\n", 1, true)
  if not head_end then return false end
  local head = conn.data:sub(1, head_end)
  local length = tonumber(head:match("[Cc]ontent%-[Ll]ength: (%d+)"))
  if #conn.data < head_end + 3 + length then return false end
  local status, body = tonumber(head:match("^HTTP/1%.1 (%d+)")), conn.data:sub(head_end + 4)
  local wrong = status ~= 200 and "status " .. tostring(status) .. ": " .. body
    or self.check and self.check(conn, head, body)
  if not wrong then
    self.answered = self.answered + 1
    self.bodies[body] = (self.bodies[body] or 0) + 1
  else
    self.failed[#self.failed + 1] = wrong
  end
  if head:lower():find("\r\nconnection: close", 1, true) then
    self.closed = self.closed + 1
    conn.sock:close()
    conn.sock = nil
  else
    send(self, conn)
  end
  return true
end

local function on_readable(self, conn)
  local data, err, partial = conn.sock:receive(65536)
  conn.data = conn.data .. (data or partial or "")
  if take_answer(self, conn) then return end
  if err and err ~= "timeout" then self:fail(conn, err) end
end

local function on_writable(self, conn)
  conn.is_connected, conn.n = true, 0
  if not conn.sock:getpeername() then return self:refuse(conn) end
  send(self, conn)
end

function Load:turn()
  local reads, writes, owner = {}, {}, {}
  for _, conn in ipairs(self.conns) do
    if not conn.sock and not self.is_finishing and socket.gettime() >= (conn.again or 0) then open(self, conn) end
    if conn.sock then
      owner[conn.sock] = conn
      table.insert(conn.is_connected and reads or writes, conn.sock)
    end
  end
  if #reads + #writes == 0 then return socket.sleep(0.005) end
  local readable, writable = socket.select(reads, writes, 0.02)
  for _, sock in ipairs(writable) do on_writable(self, owner[sock]) end
  for _, sock in ipairs(readable) do on_readable(self, owner[sock]) end
end

function Load:run(until_when, seconds)
  local deadline = socket.gettime() + (seconds or tonumber(until_when) or 20)
  local is_done = type(until_when) == "function" and until_when or function() return false end
  while socket.gettime() < deadline do
    if is_done() then return true end
    self:turn()
  end
  return type(until_when) == "number" or error("not within " .. seconds .. " s under load", 2)
end

function Load:finish()
  self.is_finishing = true
  for _, conn in ipairs(self.conns) do -- what has not been sent yet is not sent any more
    if conn.sock and not conn.is_connected then
      conn.sock:close()
      conn.sock = nil
    end
  end
  local deadline = socket.gettime() + 20
  while socket.gettime() < deadline do
    local n = 0
    for _, conn in ipairs(self.conns) do n = n + (conn.sock and 1 or 0) end
    if n == 0 then return self end
    self:turn()
  end
  self.failed[#self.failed + 1] = "requests without an answer after 20 s"
  return self
end

-- A new connection has no owner before its first answer: it may have been taken in by the one that dies meanwhile.
function Load:watch_owners()
  local deaths = {}
  self.n_open = 0
  self.check = function(conn, _, body)
    conn.owner = tonumber(body:match("^%d+"))
    return not conn.owner and "no pid: " .. body or nil
  end
  self.excuse = function(conn)
    for _, death in ipairs(deaths) do
      if conn.owner == death.pid or not conn.owner and death.at >= conn.opened_at then return true end
    end
    return false
  end
  self.dies = function(_, pid)
    for _, conn in ipairs(self.conns) do
      if conn.sock and (conn.owner == pid or not conn.owner) then self.n_open = self.n_open + 1 end
    end
    deaths[#deaths + 1] = { pid = pid, at = socket.gettime() }
  end
  return self
end

function M.start(port, n, path)
  local self = setmetatable({ port = port, conns = {}, failed = {}, bodies = {} }, Load)
  self.answered, self.refused, self.closed, self.excused = 0, 0, 0, 0
  self.request = "GET " .. path .. " HTTP/1.1\r\nHost: x\r\n\r\n"
  for i = 1, n do self.conns[i] = { n = 0, data = "" } end
  return self
end

return M
