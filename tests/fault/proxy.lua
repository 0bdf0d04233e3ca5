-- A TCP proxy that misbehaves on command, for fault specs:  luajit tests/fault/proxy.lua TARGET
-- TARGET is host:port or the path of a Unix socket. Prints "<port> <control port>" and serves until its control
-- connection is closed. One command a line on the control connection, each answered by one line:
--
--   pass             forward again (what was dropped meanwhile stays lost: those connections are half-open)
--   drop             swallow every byte, both ways; new connections are accepted and stay silent
--   refuse           close new connections at once
--   cut              close every connection now
--   delay MS         forward that much later
--   trap seen TEXT   the next time a client sends TEXT: forward it, drop the server's answer, cut; \0 is a zero byte
--   trap unseen TEXT the same without forwarding it
--   halve TEXT       the next time a client sends TEXT: forward half of the server's answer, then swallow everything
--   count            connections open now
--   trips            round trips since it was asked last, of each connection that had any: "1 2"
--   trapped          how many traps have sprung
--   stop             end
local socket = require "socket"

local target = assert(arg[1], "usage: luajit tests/fault/proxy.lua TARGET")
local mode, delay, trap, halve, trapped = "pass", 0, nil, nil, 0
local ends = {} -- socket → { peer, out = list of { text, due }, is_client, pair }

local function connect_target()
  local host, port = target:match("^([%w%.]+):(%d+)$")
  if host then
    local sock = socket.tcp()
    sock:settimeout(5)
    return sock:connect(host, tonumber(port)) and sock
  end
  local sock = require "socket.unix".stream()
  return sock:connect(target) and sock
end

local function close_pair(sock)
  local this = ends[sock]
  if not this then return end
  ends[sock], ends[this.peer] = nil, nil
  sock:close()
  this.peer:close()
end

local function accept(listener)
  local client = listener:accept()
  local upstream = client and mode ~= "refuse" and connect_target()
  if not upstream then return client and client:close() end
  client:settimeout(0)
  upstream:settimeout(0)
  local pair = { is_lost = mode == "drop" }
  ends[client] = { peer = upstream, out = {}, is_client = true, pair = pair }
  ends[upstream] = { peer = client, out = {}, pair = pair }
end

local function push(sock, text)
  local out = ends[sock].out
  out[#out + 1] = { text = text, due = socket.gettime() + delay / 1000 }
end

local function spring(this, data)
  trapped = trapped + 1
  if trap.is_seen then push(this.peer, data) else close_pair(this.peer) end
  this.pair.is_trapped = true
  trap = nil
end

local function cut_in_half(this, data)
  trapped = trapped + 1
  push(this.peer, data:sub(1, #data / 2))
  this.pair.is_lost = true
end

local function on_data(sock, this, data)
  local pair = this.pair
  if this.is_client and not pair.is_asking then pair.trips = (pair.trips or 0) + 1 end
  pair.is_asking = this.is_client
  if mode == "drop" then this.pair.is_lost = true end
  if this.pair.is_lost then return end
  if this.pair.is_trapped then
    if not this.is_client then close_pair(sock) end
  elseif this.is_client and trap and data:find(trap.text, 1, true) then
    spring(this, data)
  elseif this.pair.is_halved and not this.is_client then
    cut_in_half(this, data)
  else
    if this.is_client and halve and data:find(halve, 1, true) then this.pair.is_halved, halve = true, nil end
    push(this.peer, data)
  end
end

local function on_readable(sock)
  local this = ends[sock]
  local data, err, partial = sock:receive(65536)
  data = data or partial
  if data and #data > 0 then
    on_data(sock, this, data)
  end
  if err == "closed" and ends[sock] and not (mode == "drop" or this.pair.is_lost) then
    if #ends[this.peer].out == 0 then close_pair(sock) else ends[this.peer].is_ending = true end
    this.is_over = true
  elseif err == "closed" and ends[sock] then
    close_pair(sock)
  end
end

local function flush(sock, now)
  local this = ends[sock]
  local first = this.out[1]
  if not first or first.due > now then return end
  local sent, err, partial = sock:send(first.text)
  sent = sent or partial or 0
  if err and err ~= "timeout" then return close_pair(sock) end
  if sent < #first.text then first.text = first.text:sub(sent + 1) else table.remove(this.out, 1) end
  if this.is_ending and #this.out == 0 then close_pair(sock) end
end

local commands = {}
function commands.pass() mode, delay, trap = "pass", 0, nil end
function commands.drop() mode = "drop" end
function commands.refuse() mode = "refuse" end
function commands.cut() for sock in pairs(ends) do close_pair(sock) end end
function commands.delay(ms) delay = tonumber(ms) end
function commands.trap(rest)
  local how, text = rest:match("^(%w+) (.+)$")
  trap = { is_seen = how == "seen", text = text:gsub("\\0", "\0") }
end
function commands.halve(text) halve = text end
function commands.count()
  local n = 0
  for _, this in pairs(ends) do n = n + (this.is_client and 1 or 0) end
  return n
end
function commands.trips()
  local list = {}
  for _, this in pairs(ends) do
    if this.is_client and this.pair.trips then list[#list + 1], this.pair.trips = this.pair.trips, nil end
  end
  table.sort(list)
  return table.concat(list, " ") -- "" is answered as an empty line
end
function commands.trapped() return trapped end
function commands.stop() os.exit(0) end

local function on_control(control)
  local line, err = control:receive("*l")
  if err then os.exit(0) end
  local name, rest = line:match("^(%w+) ?(.*)$")
  control:send(tostring(commands[name](rest) or "ok") .. "\n")
end

local function select_once(listener, control)
  local reads, writes, now = { listener, control }, {}, socket.gettime()
  for sock, this in pairs(ends) do
    if not this.is_over then reads[#reads + 1] = sock end
    if this.out[1] and this.out[1].due <= now then writes[#writes + 1] = sock end
  end
  local readable, writable = socket.select(reads, writes, delay > 0 and 0.002 or 1)
  for _, sock in ipairs(writable) do if ends[sock] then flush(sock, socket.gettime()) end end
  for _, sock in ipairs(readable) do
    if sock == listener then accept(listener)
    elseif sock == control then on_control(control)
    elseif ends[sock] then on_readable(sock) end
  end
end

local listener = assert(socket.bind("127.0.0.1", 0, 512))
local controller = assert(socket.bind("127.0.0.1", 0))
print(select(2, listener:getsockname()) .. " " .. select(2, controller:getsockname()))
io.stdout:flush()
controller:settimeout(20)
local control = assert(controller:accept(), "nobody took control")
controller:close()
listener:settimeout(0)
while true do select_once(listener, control) end
