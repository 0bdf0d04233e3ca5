-- A small HTTP/1.1 client for specs: each request on its own connection, any number of them at once.
-- Blocking for its caller; what runs in parallel is the server's side.
local socket = require "socket"
local json = require "dkjson"

local M = {}

local Answer = {}
Answer.__index = function(self, key)
  if key == "json" then -- decoded on demand; nil if the body is no JSON
    return (json.decode(self.body))
  end
end

local function dechunk(body)
  local out, pos = {}, 1
  while true do
    local from, to, size = body:find("^(%x+)[^\r\n]*\r\n", pos)
    if not from then return nil, "bad chunk" end
    size = tonumber(size, 16)
    if size == 0 then return table.concat(out) end
    out[#out + 1] = body:sub(to + 1, to + size)
    pos = to + size + 3
  end
end

-- raw bytes of one whole answer → {status, headers (lower-cased names), body, json}
function M.parse(raw)
  local head, body = raw:match("^(.-\r\n)\r\n(.*)$")
  if not head then return setmetatable({ status = 0, headers = {}, body = raw }, Answer) end
  local status = tonumber(head:match("^HTTP/1%.%d (%d+)"))
  if status == 100 then return M.parse(body) end
  local headers = {}
  for name, value in head:gmatch("\r\n([^:\r\n]+):[ \t]*([^\r\n]*)") do
    name = name:lower()
    headers[name] = headers[name] and headers[name] .. ", " .. value or value
  end
  if (headers["transfer-encoding"] or ""):find("chunked") then body = dechunk(body) or body end
  return setmetatable({ status = status or 0, headers = headers, body = body }, Answer)
end

-- opts: headers = {}, json = value, body = string
function M.encode(host, method, path, opts)
  opts = opts or {}
  local body = opts.body or opts.json ~= nil and json.encode(opts.json) or nil
  local lines = { method .. " " .. path .. " HTTP/1.1", "Host: " .. host, "Connection: close" }
  if opts.json ~= nil then lines[#lines + 1] = "Content-Type: application/json" end
  for name, value in pairs(opts.headers or {}) do lines[#lines + 1] = name .. ": " .. value end
  if body then lines[#lines + 1] = "Content-Length: " .. #body end
  return table.concat(lines, "\r\n") .. "\r\n\r\n" .. (body or "")
end

local function advance(call) -- one ready connection: write what is left, else read
  if call.out then
    local sent, err, partial = call.sock:send(call.out, call.sent + 1)
    call.sent = sent or partial or call.sent
    if call.sent >= #call.out then call.out = nil end
    if err and err ~= "timeout" then call.failed = err end
    return
  end
  local data, err, partial = call.sock:receive(65536)
  call.parts[#call.parts + 1] = data or partial
  if err and err ~= "timeout" then call.done = true end
end

-- list of { method, path, opts } → list of answers in the same order. A connection that fails has status 0 and .error.
function M.parallel(host, port, requests, timeout)
  local calls, open, answers = {}, 0, {}
  for i, r in ipairs(requests) do
    local sock = socket.tcp()
    sock:settimeout(0)
    local ok, err = sock:connect(host, port)
    local call = { i = i, sock = sock, out = M.encode(host .. ":" .. port, r[1], r[2], r[3]), sent = 0, parts = {} }
    if not ok and err ~= "timeout" and err ~= "Operation already in progress" then call.failed = err end
    calls[sock], open = call, open + 1
  end
  local deadline = socket.gettime() + (timeout or 60)
  while open > 0 do
    local reads, writes = {}, {}
    for sock, call in pairs(calls) do
      if call.done or call.failed then
        sock:close()
        local answer = M.parse(table.concat(call.parts))
        answer.error = call.failed
        answers[call.i], calls[sock], open = answer, nil, open - 1
      elseif call.out then writes[#writes + 1] = sock
      else reads[#reads + 1] = sock end
    end
    if open > 0 then
      local left = deadline - socket.gettime()
      if left <= 0 then error(open .. " answers are missing after " .. (timeout or 60) .. " s", 2) end
      local r, w = socket.select(reads, writes, left)
      for _, sock in ipairs(r) do advance(calls[sock]) end
      for _, sock in ipairs(w) do advance(calls[sock]) end
    end
  end
  return answers
end

function M.request(host, port, method, path, opts)
  local answer = M.parallel(host, port, { { method, path, opts } }, opts and opts.timeout)[1]
  if answer.error then error(method .. " " .. path .. ": " .. answer.error, 3) end
  return answer
end

return M
