-- Workers that are stuck, workers that are killed, a master that is killed: what fails is what was in flight there.
local load = require "spec.support.load"
local server = require "spec.support.server"
local soak = require "tests.soak.soak"
local socket = require "socket"

describe("under load", function()
  local s
  after_each(function() s:stop() end)

  local function account(l)
    assert.same({}, l.failed)
    assert.truthy(l.excused <= l.n_open, l.excused .. " failed, " .. l.n_open .. " connections were open to the dead")
  end

  -- Which worker answers on this connection: its pid begins the body. Reads the whole answer.
  local function whose(sock)
    local length
    repeat
      local line = assert(sock:receive "*l")
      length = tonumber(line:match "^[Cc]ontent%-[Ll]ength: (%d+)") or length
    until line == ""
    return assert(tonumber(assert(sock:receive(length)):match "^%d+"))
  end

  it("a stuck worker is replaced in time, and the others are not disturbed", function()
    local stall_s = 2
    s = soak.start { worker = { stall = stall_s .. "s" } }
    for round = 1, math.max(1, math.floor(soak.seconds / 20)) do
      local l = load.start(s.port, 32, "/work"):watch_owners()
      l:run(0.5)
      local stuck = assert(socket.connect("127.0.0.1", s.port))
      stuck:send "GET /work HTTP/1.1\r\nHost: x\r\n\r\n"
      local victim = whose(stuck)
      local from_s, answered = soak.now(), l.answered
      l:dies(victim)
      stuck:send "GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n"
      l:run(function() return not soak.is_alive(victim) end, 30)
      l:run(function() return select(2, s:log():gsub("worker is back", "")) == round end, 30)
      local took_s = soak.now() - from_s
      local n = l.answered - answered
      l:run(1)
      l:finish()
      stuck:close()
      account(l)
      soak.say("round %d: replaced after %.2f s; %d answered meanwhile; %d requests failed of %d connections to it",
        round, took_s, n, l.excused, l.n_open)
      assert.truthy(took_s <= stall_s + 1, took_s)
      assert.truthy(n > 200, n)
      assert.truthy(s:log():find("GET /stuck", 1, true))
      assert.truthy(s:log():find("app.lua:11", 1, true), s:log()) -- where it is stuck
    end
  end)

  it("workers killed at random fail what was in flight there, and nothing else", function()
    s = soak.start()
    local kept = load.start(s.port, 48, "/work"):watch_owners()
    local anew = load.start(s.port, 16, "/work"):watch_owners()
    anew.request = anew.request:gsub("\r\n\r\n$", "\r\nConnection: close\r\n\r\n")
    anew.before = function(conn) conn.owner = nil end
    local until_s, next_s, n_kills = soak.now() + soak.seconds, soak.now() + 1, 0
    local said_s = soak.now()
    kept:run(function()
      anew:turn()
      if soak.now() >= next_s then
        local alive = soak.workers(s)
        local pid = alive[math.random(#alive)]
        if pid then
          kept:dies(pid)
          anew:dies(pid)
          server.sh("kill -KILL " .. pid)
          n_kills = n_kills + 1
        end
        next_s = soak.now() + 0.5 + math.random()
      end
      if soak.now() - said_s > 10 then
        said_s = soak.now()
        soak.say("%d kills, %d answered, %d cut", n_kills, kept.answered + anew.answered, kept.excused + anew.excused)
      end
      return soak.now() >= until_s
    end, soak.seconds + 30)
    kept:run(function() return #soak.workers(s) == soak.WORKERS end, 30)
    kept:finish()
    anew:finish()
    account(kept)
    account(anew)
    soak.say("%d kills, %d answered; %d requests cut, %d connections were open to the killed; %d refused", n_kills,
      kept.answered + anew.answered, kept.excused + anew.excused, kept.n_open + anew.n_open,
      kept.refused + anew.refused)
    assert.equal(0, kept.refused + anew.refused) -- who queued was served by another, or by the next
    assert.truthy(n_kills >= soak.seconds / 3, n_kills)
    assert.truthy(s:is_alive())
  end)

  it("a killed master's workers finish what they have, and end", function()
    s = soak.start()
    local l = load.start(s.port, 32, "/work")
    l:run(1)
    local workers = soak.workers(s)
    local long = {}
    for i = 1, 8 do
      long[i] = assert(socket.connect("127.0.0.1", s.port))
      long[i]:send "GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    end
    local before = l.answered
    l:run(function() return l.answered > before + 200 end, 20) -- those above are in the workers by now
    s:kill "KILL"
    local killed_s = soak.now()
    l.excuse = function(conn) return conn.opened_at >= killed_s end -- nobody is left to take in who comes now
    l:run(function() return l.refused > 0 end, 20)
    l:finish()
    assert.same({}, l.failed)
    for _, sock in ipairs(long) do
      sock:settimeout(20)
      assert.truthy((sock:receive("*a") or ""):find("200 OK", 1, true))
    end
    for _, pid in ipairs(workers) do
      server.eventually("the end of worker " .. pid, function() return not soak.is_alive(pid) end)
    end
    soak.say("%d answered, none lost; %d came afterwards and found nobody", l.answered, l.excused)
  end)
end)
