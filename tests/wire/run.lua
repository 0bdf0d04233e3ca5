-- Plays wire dialogues: raw bytes to a server at WIRE_ADDR (host:port), assertions on what comes back. Prints TAP.
--
-- A dialogue is a file NNN-what.wire; a line is one step, '#' begins a comment line. Escapes in text:
-- \r \n \t \\ \xHH, and \s for a space where one would be lost at the end of a line.
--
--   name: TEXT            what the dialogue shows (first line)
--   send: TEXT            sends bytes
--   send*N: TEXT          sends them N times over, in one piece
--   drip MS: TEXT         sends them one byte each MS milliseconds, as long as the server listens
--   wait: MS              does nothing for a moment
--   fin                   closes our direction (half-close)
--   reset                 drops the connection with a reset
--   expect: STATUS        reads one response (1xx too) and checks its status; `expect: STATUS HEAD` where no body
--                         may follow. The following lines are about that response:
--   expect*N: STATUS      reads N responses of that status with equal bodies; what follows is about the last
--   header: Name: VALUE   is there, once, with exactly that value
--   header~ Name: PATTERN is there and matches a Lua pattern
--   absent: Name          is not there
--   body: TEXT            the body (decoded if chunked) is exactly that
--   body~ PATTERN         it matches a Lua pattern
--   lacks: TEXT           the text is nowhere in the response, head or body
--   truncated: STATUS     reads a response whose body must end too early
--   closed                the server closes (FIN, no reset), with no further bytes
--   gone                  the server ends the connection, however, after whatever bytes
--   open                  no bytes come and the connection stays open
--   within MS / after MS  the last read step ended within / not before so many milliseconds since it began
--   conn: NAME            goes on with another connection of that name (opened at its first use)
--   refused               a new connection is not accepted
local socket = require "socket"

local PATIENCE, CALM = 5, 0.12 -- seconds to wait for what must come; without anything, for `open`
local host, port = (os.getenv("WIRE_ADDR") or "127.0.0.1:8080"):match("^(.*):(%d+)$")

local function unescape(text)
  return (text:gsub("\\(.)(%x?%x?)", function(kind, hex)
    if kind == "x" then
      return string.char(tonumber(hex, 16))
    end
    local byte = ({ r = "\r", n = "\n", t = "\t", s = " ", ["\\"] = "\\" })[kind]
    return assert(byte, "unknown escape \\" .. kind) .. hex
  end))
end

-- ---- one connection -------------------------------------------------------------------------------------
local Conn = {}
Conn.__index = Conn

local function open_conn()
  local sock = assert(socket.tcp())
  sock:settimeout(PATIENCE)
  local ok, err = sock:connect(host, tonumber(port))
  if not ok then
    sock:close()
    return nil, err
  end
  sock:setoption("tcp-nodelay", true)
  return setmetatable({ sock = sock, buffer = "", ended = nil }, Conn)
end

-- Reads what is there; false at the deadline. An end of the stream is kept in self.ended.
function Conn:more(deadline)
  if self.ended then
    return false
  end
  local ready = socket.select({ self.sock }, nil, math.max(0, deadline - socket.gettime()))
  if #ready == 0 then
    return false
  end
  self.sock:settimeout(0)
  local data, err, partial = self.sock:receive(65536)
  self.buffer = self.buffer .. (data or partial or "")
  if err and err ~= "timeout" then
    self.ended = err
  end
  return true
end

-- Writes all, reading meanwhile, so that neither side waits for the other for ever.
function Conn:send(bytes)
  local at, deadline = 1, socket.gettime() + PATIENCE
  self.sock:settimeout(0.02)
  while at <= #bytes and socket.gettime() < deadline do
    local last, err, partial = self.sock:send(bytes, at)
    at = (last or partial) + 1
    if err and err ~= "timeout" then
      return -- the server may close on a refused request; what it said is read by the next step
    end
    if err then
      self:more(socket.gettime())
      self.sock:settimeout(0.02)
    end
  end
end

function Conn:drip(bytes, ms)
  for i = 1, #bytes do
    self.sock:settimeout(0)
    if not self.sock:send(bytes:sub(i, i)) then
      return
    end
    self:more(socket.gettime() + ms / 1000)
    if self.ended or #self.buffer > 0 then
      return
    end
  end
end

function Conn:take(n)
  local bytes = self.buffer:sub(1, n)
  self.buffer = self.buffer:sub(n + 1)
  return bytes
end

function Conn:need(n, deadline)
  while #self.buffer < n do
    if not self:more(deadline) then
      return nil, ("wanted %d bytes, got %d%s"):format(n, #self.buffer, self.ended and " and " .. self.ended or "")
    end
  end
  return self:take(n)
end

function Conn:line(deadline)
  while true do
    local stop = self.buffer:find("\r\n", 1, true)
    if stop then
      return self:take(stop + 1):sub(1, -3)
    end
    if not self:more(deadline) then
      return nil, "no whole line came" .. (self.ended and " (" .. self.ended .. ")" or "")
    end
  end
end

function Conn:chunks(deadline)
  local parts = {}
  while true do
    local line, err = self:line(deadline)
    if not line then
      return nil, err, table.concat(parts)
    end
    local size = tonumber(line, 16)
    if not size then
      return nil, "bad chunk size " .. line
    end
    local data, why = self:need(size + 2, deadline)
    if not data or data:sub(-2) ~= "\r\n" then
      return nil, why or "chunk without its CRLF"
    end
    if size == 0 then
      return table.concat(parts)
    end
    parts[#parts + 1] = data:sub(1, -3)
  end
end

function Conn:until_end(deadline)
  while self:more(deadline) do end -- luacheck: ignore 542
  if not self.ended then
    return nil, "the connection did not end"
  end
  return self:take(#self.buffer)
end

function Conn:body(res, without, deadline)
  local length = res.headers["content-length"]
  if without or res.status < 200 or res.status == 204 or res.status == 304 then
    return ""
  elseif res.headers["transfer-encoding"] then
    return self:chunks(deadline)
  elseif length then
    return self:need(tonumber(length[1]), deadline)
  end
  return self:until_end(deadline)
end

function Conn:response(without)
  local deadline = socket.gettime() + PATIENCE
  local line, err = self:line(deadline)
  if not line then
    return nil, err
  end
  local res = { status = tonumber(line:match("^HTTP/1%.1 (%d%d%d) ")), headers = {}, head = line }
  if not res.status then
    return nil, "bad status line: " .. line
  end
  while true do
    line, err = self:line(deadline)
    if not line then
      return nil, err
    elseif line == "" then
      break
    end
    local name, value = line:match("^([%w_-]+): ?(.*)$")
    if not name then
      return nil, "bad header line: " .. line
    end
    local values = res.headers[name:lower()] or {}
    values[#values + 1] = value
    res.headers[name:lower()], res.head = values, res.head .. "\n" .. line
  end
  res.body, err = self:body(res, without, deadline)
  return res, err
end

-- ---- steps: each returns nil, or what is wrong ---------------------------------------------------------
local steps = {}

local function conn_of(state)
  local conn = state.conns[state.current]
  if not conn then
    conn = assert(open_conn())
    state.conns[state.current] = conn
  end
  return conn
end

function steps.send(state, text, count)
  conn_of(state):send(unescape(text):rep(tonumber(count) or 1))
end

function steps.drip(state, text, ms)
  conn_of(state):drip(unescape(text), tonumber(ms))
end

function steps.wait(_, ms)
  socket.sleep(tonumber(ms) / 1000)
end

function steps.fin(state)
  conn_of(state).sock:shutdown("send")
end

function steps.reset(state)
  local sock = conn_of(state).sock
  sock:setoption("linger", { on = true, timeout = 0 })
  sock:close()
  state.conns[state.current] = nil
end

function steps.conn(state, name)
  state.current = name
  conn_of(state)
end

local function timed(state, read)
  local began = socket.gettime()
  local fault = read()
  state.took_ms = (socket.gettime() - began) * 1000
  return fault
end

local function expect_one(state, status, kind)
  local res, err = conn_of(state):response(kind == "HEAD")
  state.res = res
  if not res or not res.body then
    return ("expected %s: %s"):format(status, err)
  elseif res.status ~= tonumber(status) then
    return ("expected %s, got %d\n%s\n%s"):format(status, res.status, res.head, res.body)
  end
end

function steps.expect(state, text, count)
  local status, kind = text:match("^(%d+)%s*(%a*)$")
  return timed(state, function()
    local first
    for i = 1, tonumber(count) or 1 do
      local fault = expect_one(state, status, kind)
      if not fault and first and first ~= state.res.body then
        fault = ("its body differs: %q"):format(state.res.body:sub(1, 200))
      end
      if fault then
        return ("response %d: %s"):format(i, fault)
      end
      first = state.res.body
    end
  end)
end

function steps.truncated(state, status)
  local res, err = conn_of(state):response(false)
  if not res then
    return err
  elseif res.status ~= tonumber(status) or res.body then
    return "a whole response came, status " .. res.status
  end
end

local function field(text)
  local name, value = text:match("^([^:]+):%s?(.*)$")
  return name, unescape(value)
end

function steps.header(state, text)
  local name, value = field(text)
  local values = state.res.headers[name:lower()] or {}
  if #values ~= 1 or values[1] ~= value then
    return ("%s is %q, expected %q"):format(name, table.concat(values, "|"), value)
  end
end

steps["header~"] = function(state, text)
  local name, pattern = field(text)
  local values = state.res.headers[name:lower()] or {}
  if #values ~= 1 or not values[1]:find(pattern) then
    return ("%s is %q, expected to match %s"):format(name, table.concat(values, "|"), pattern)
  end
end

function steps.absent(state, name)
  if state.res.headers[name:lower()] then
    return name .. " is there: " .. table.concat(state.res.headers[name:lower()], "|")
  end
end

function steps.body(state, text)
  if state.res.body ~= unescape(text) then
    return ("body is %q"):format(state.res.body:sub(1, 200))
  end
end

steps["body~"] = function(state, text)
  local pattern = unescape(text)
  if not state.res.body:find(pattern) then
    return ("body does not match %s: %q"):format(pattern, state.res.body:sub(1, 400))
  end
end

function steps.lacks(state, text)
  if (state.res.head .. "\n" .. state.res.body):find(unescape(text), 1, true) then
    return "the response holds " .. text
  end
end

function steps.closed(state)
  return timed(state, function()
    local conn = conn_of(state)
    local bytes, err = conn:until_end(socket.gettime() + PATIENCE)
    if not bytes then
      return err
    elseif conn.ended ~= "closed" then
      return "ended with " .. conn.ended
    elseif bytes ~= "" then
      return ("%d more bytes before the end: %q"):format(#bytes, bytes:sub(1, 300))
    end
  end)
end

function steps.gone(state)
  return timed(state, function()
    local _, err = conn_of(state):until_end(socket.gettime() + PATIENCE)
    return err
  end)
end

function steps.open(state)
  local conn = conn_of(state)
  if #conn.buffer == 0 then
    conn:more(socket.gettime() + CALM)
  end
  if conn.ended or #conn.buffer > 0 then
    return ("not calm: %s %q"):format(conn.ended or "", conn.buffer:sub(1, 200))
  end
end

function steps.within(state, ms)
  if state.took_ms > tonumber(ms) then
    return ("took %d ms"):format(state.took_ms)
  end
end

function steps.after(state, ms)
  if state.took_ms < tonumber(ms) then
    return ("took only %d ms"):format(state.took_ms)
  end
end

function steps.refused()
  local conn = open_conn()
  if conn then
    conn.sock:close()
    return "a new connection was accepted"
  end
end

-- ---- files ----------------------------------------------------------------------------------------------
local function parse_step(line)
  local verb, arg, text = line:match("^(%l+)[* ]?(%d*): ?(.*)$")
  if verb and steps[verb] then
    return verb, text, arg
  end
  verb, text = line:match("^(%l+~) ?(.*)$")
  if verb and steps[verb] then
    return verb, text
  end
  verb, text = line:match("^(%l+) ?(%d*)$")
  if verb and steps[verb] then
    return verb, text
  end
  error("not a step: " .. line)
end

local function play(path)
  local state, name, fault = { conns = {}, current = "a" }, path, nil
  local number = 0
  for line in io.lines(path) do
    number = number + 1
    local title = line:match("^name: (.*)$")
    if title then
      name = title
    elseif not fault and line ~= "" and line:sub(1, 1) ~= "#" then
      local verb, text, arg = parse_step(line)
      local ok, result = pcall(steps[verb], state, text, arg)
      if not ok or result then
        fault = ("%s:%d: %s\n%s"):format(path, number, line:sub(1, 100), tostring(result))
      end
    end
  end
  for _, conn in pairs(state.conns) do
    conn.sock:close()
  end
  return name, fault
end

local function list_files()
  local files = { unpack(arg) }
  if #files == 0 then
    local pipe = assert(io.popen("ls tests/wire/*.wire"))
    for path in pipe:lines() do
      files[#files + 1] = path
    end
    pipe:close()
  end
  return files
end

local files, n_failed = list_files(), 0
print("1.." .. #files)
io.stdout:setvbuf("line")
for i, path in ipairs(files) do
  local name, fault = play(path)
  local number = path:match("(%d+)[^/]*$") or "?"
  print(("%s %d - %s %s"):format(fault and "not ok" or "ok", i, number, name))
  if fault then
    n_failed = n_failed + 1
    print("# " .. fault:gsub("\n", "\n# "))
  end
end
os.exit(n_failed == 0 and 0 or 1)
