-- Stops and upgrades under full load: every request that was let in is answered, and no number is given twice.
local load = require "spec.support.load"
local soak = require "tests.soak.soak"

describe("under full load", function()
  local s
  after_each(function() s:stop() end)

  local function refused_only(l) -- a stopped server refuses; nothing that was let in is lost
    l:finish()
    assert.same({}, l.failed)
  end

  it("a stop answers all that was let in", function()
    local answered = 0
    for round = 1, math.max(2, math.floor(soak.seconds / 10)) do
      s = soak.start(soak.production { stop = { lame_duck = round % 2 == 0 and "200ms" or 0 } })
      local l = load.start(s.port, 128, "/work")
      l:run(1)
      s:kill "TERM"
      l:run(function() return not s:is_alive() end, 40)
      refused_only(l)
      assert.falsy(s:log():find("did not stop cleanly", 1, true), s:log())
      answered = answered + l.answered
      s:stop()
    end
    soak.say("%d answered, none lost", answered)
    s = soak.start()
  end)

  it("upgrades lose no request and give no number twice", function()
    s = soak.start(soak.production())
    local seen, twice, n_upgrades = {}, 0, 0
    local kept, anew = load.start(s.port, 96, "/number"), load.start(s.port, 16, "/work")
    kept.check = function(_, _, body)
      local number = body:match("(%d+)$")
      if seen[number] then twice = twice + 1 end
      seen[number] = true
    end
    anew.request = anew.request:gsub("\r\n\r\n$", "\r\nConnection: close\r\n\r\n")
    local until_s = soak.now() + soak.seconds
    while soak.now() < until_s do
      local old, done = s.pid, s:chowk "upgrade"
      local function turn(is_over)
        kept:run(function()
          anew:turn()
          return is_over()
        end, 60)
      end
      turn(done)
      local code, out = done()
      assert.equal(0, code, out)
      s.pid = tonumber(out:match("upgraded: pid (%d+)"))
      n_upgrades = n_upgrades + 1
      turn(function() return not io.open("/proc/" .. old .. "/status") end)
      local rest_s = soak.now() + 1
      turn(function() return soak.now() > rest_s end)
      soak.say("upgrade %d: %s", n_upgrades, out:match("serves after [%d.]+ ms") or out)
    end
    kept:finish()
    anew:finish()
    soak.say("%d upgrades, %d answered", n_upgrades, kept.answered + anew.answered)
    assert.same({ {}, {} }, { kept.failed, anew.failed })
    assert.equal(0, kept.refused + anew.refused)
    assert.equal(0, twice)
  end)
end)
