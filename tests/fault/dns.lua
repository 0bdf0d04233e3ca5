-- A name server for specs:  luajit tests/fault/dns.lua ADDRESS     (UDP, port 53)
-- Prints "ready". The names it knows end in .test: `fast.test` is 127.0.0.1 at once, `slow.test` is 127.0.0.1 after
-- eight seconds, `inside.test` is 10.0.0.1; any other does not exist. It knows no IPv6. Ends with its standard input.
local socket = require "socket"

local udp = assert(socket.udp())
assert(udp:setsockname(arg[1], 53))
udp:settimeout(0)
print "ready"
io.stdout:flush()

local ADDRESSES = { ["fast.test"] = "\127\0\0\1", ["slow.test"] = "\127\0\0\1", ["inside.test"] = "\10\0\0\1" }
local later = {} -- { text, ip, port, due }

local function name_of(query)
  local labels, at = {}, 13
  while query:byte(at) > 0 do
    local len = query:byte(at)
    labels[#labels + 1] = query:sub(at + 1, at + len)
    at = at + 1 + len
  end
  return table.concat(labels, "."):lower(), query:sub(13, at + 4), query:byte(at + 2) == 1 -- name, question, is it A
end

local function answer(query, ip, port)
  local name, question, is_a = name_of(query)
  local address = ADDRESSES[name]
  local n = address and is_a and 1 or 0
  local text = query:sub(1, 2) .. "\129" .. (address and "\128" or "\131") .. "\0\1\0" .. string.char(n) .. "\0\0\0\0"
    .. question .. (n == 1 and "\192\12\0\1\0\1\0\0\0\0\0\4" .. address or "")
  later[#later + 1] = { text = text, ip = ip, port = port, due = socket.gettime() + (name == "slow.test" and 8 or 0) }
end

local stdin = { getfd = function() return 0 end, dirty = function() return false end }
while true do
  local ready = socket.select({ udp, stdin }, nil, #later > 0 and 0.05 or 5)
  if ready[stdin] then return end
  local query, ip, port = udp:receivefrom()
  if query then answer(query, ip, port) end
  for i = #later, 1, -1 do
    if later[i].due <= socket.gettime() then
      udp:sendto(later[i].text, later[i].ip, later[i].port)
      table.remove(later, i)
    end
  end
end
