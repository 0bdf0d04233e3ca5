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

local function open_call(host, port, i, r)
  local sock = socket.tcp()
  sock:settimeout(0)
  local ok, err = sock:connect(host, port)
  local call = { i = i, out = M.encode(host .. ":" .. port, r[1], r[2], r[3]), sent = 0, parts = {}, sock = sock,
    since = socket.gettime() }
  if not ok and err ~= "timeout" and err ~= "Operation already in progress" then call.failed = err end
  return call
end

local function finish(call)
  call.sock:close()
  local answer = M.parse(table.concat(call.parts))
  answer.error, answer.seconds = call.failed, socket.gettime() - call.since
  return answer
end

-- Keeps `width` requests open: next_request() → { method, path, opts, port = another server's } until it gives nil;
-- on_answer(i, answer) for each, i counting the requests. A connection that fails has status 0 and .error. Returns the
-- number of requests.
function M.flow(host, port, width, next_request, on_answer, timeout)
  local calls, open, n, is_over = {}, 0, 0, false
  local deadline = socket.gettime() + (timeout or 60)
  while true do
    while open < width and not is_over do
      local request = next_request()
      if request then
        n, open = n + 1, open + 1
        local call = open_call(host, request.port or port, n, request)
        calls[call.sock] = call
      else
        is_over = true
      end
    end
    local reads, writes = {}, {}
    for sock, call in pairs(calls) do
      if call.done or call.failed then
        calls[sock], open = nil, open - 1
        on_answer(call.i, finish(call))
      elseif call.out then writes[#writes + 1] = sock
      else reads[#reads + 1] = sock end
    end
    if open == 0 and is_over then return n end
    local left = deadline - socket.gettime()
    if left <= 0 then error(open .. " answers are missing after " .. (timeout or 60) .. " s", 2) end
    if #reads + #writes > 0 then
      local r, w = socket.select(reads, writes, math.min(left, 0.1))
      for _, sock in ipairs(r) do advance(calls[sock]) end
      for _, sock in ipairs(w) do advance(calls[sock]) end
    end
  end
end

-- list of { method, path, opts } → list of answers in the same order.
function M.parallel(host, port, requests, timeout)
  local i, answers = 0, {}
  M.flow(host, port, #requests, function()
    i = i + 1
    return requests[i]
  end, function(k, answer) answers[k] = answer end, timeout)
  return answers
end

-- Sends a request whose answer is read later: → function that waits for it (status 0: there was none), its socket.
function M.begin(host, port, method, path, opts)
  local sock = assert(socket.connect(host, port))
  sock:settimeout(30)
  assert(sock:send(M.encode(host .. ":" .. port, method, path, opts)))
  return function()
    local raw, _, partial = sock:receive("*a")
    sock:close()
    return M.parse(raw or partial)
  end, sock
end

function M.request(host, port, method, path, opts)
  local answer = M.parallel(host, port, { { method, path, opts } }, opts and opts.timeout)[1]
  if answer.error then error(method .. " " .. path .. ": " .. answer.error, 3) end
  return answer
end

return M
