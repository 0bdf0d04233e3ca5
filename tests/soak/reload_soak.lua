-- A reload each second under full load: no request lost, none answered by a mixture or by code older than what was
-- committed when it was sent, and little slower than without. Then many reloads: nothing grows.
local load = require "spec.support.load"
local server = require "spec.support.server"
local soak = require "tests.soak.soak"

describe("reloads", function()
  local s
  after_each(function() s:stop() end)

  -- Reloads once a second in a process of its own, which says in a file what has been committed → its handle
  local function reload_each_second(from, seconds)
    local script = ([[
      cd %s
      n=%d; end=$(($(date +%%s) + %d))
      while [ "$(date +%%s)" -lt $end ]; do
        begun=$(date +%%s%%N); n=$((n + 1))
        echo "return { n = $n }" >part.lua
        sed -i "s/^local N = .*/local N = $n/" app.lua
        %s reload >>reloads.log 2>&1 || exit 1
        echo $n >committed.tmp && mv committed.tmp committed
        left=$((1000 - ($(date +%%s%%N) - begun) / 1000000))
        [ $left -le 0 ] || sleep 0.$(printf %%03d $left)
      done
      echo $n
    ]]):format(s.dir, from, seconds, os.getenv "CHOWK")
    return io.popen(script)
  end

  local function committed()
    local f = io.open(s.dir .. "/committed")
    local n = f and f:read("*n") or 0
    if f then f:close() end
    return n
  end

  -- Each answer comes from one code, by number and by hash, and not from one older than what was committed when the
  -- request left.
  local function checked_load()
    local l, hash_of, number_of = load.start(s.port, 8, "/"), {}, {}
    l.before = function(conn) conn.asked = committed() end
    l.check = function(conn, head, body)
      local n, part = body:match("^%d+ (%d+) (%d+)$")
      local hash = head:lower():match("\r\nx%-chowk%-generation: ([^\r\n]+)")
      if n ~= part then return "mixed: " .. body end
      if tonumber(n) < conn.asked then return ("code %s after the commit of %d"):format(n, conn.asked) end
      if not hash or (hash_of[n] or hash) ~= hash or (number_of[hash] or n) ~= n then
        return "the hash of other code: " .. body
      end
      hash_of[n], number_of[hash] = hash, n
    end
    return l
  end

  -- In pairs, one after the other, in turn: whatever else the machine does meets both of a pair. The median of the
  -- pairs counts. As many workers as cores, as the default is: more would compete with each other.
  it("each second lose no request, mix no code, and cost little", function()
    s = soak.start { workers = math.max(2, tonumber((server.sh("nproc"):match("%d+")))) }
    local rounds = 5
    local seconds, n = math.max(3, math.floor(soak.seconds / rounds)), 0
    local ratios, l = {}, checked_load()
    for round = 1, rounds do
      local p99_ms = {}
      for _, is_moving in ipairs(round % 2 == 0 and { true, false } or { false, true }) do
        local reloads = is_moving and reload_each_second(n, seconds)
        local wrk = soak.wrk(s.port, "/work", seconds, 64)
        l:run(seconds)
        local result = wrk()
        if reloads then
          n = assert(tonumber((reloads:read("*l"))), "a reload failed")
          reloads:close()
        end
        p99_ms[is_moving] = result.p99_ms
        soak.say("round %d %s: %.0f requests/s, p99 %.2f ms, %d failed; %d reloads so far", round,
          is_moving and "with reloads" or "without    ", result.rps, result.p99_ms, result.failed, n)
        assert.equal(0, result.failed, result.text)
      end
      ratios[round] = p99_ms[true] / p99_ms[false]
    end
    l:finish()
    assert.same({}, l.failed)
    assert.truthy(n >= rounds * (seconds - 2) * 0.5, n .. " reloads")
    local ratio = soak.median(ratios)
    soak.say("%d checked answers; p99 with reloads is %.2f times that without (%.2f to %.2f)", l.answered, ratio,
      ratios[1], ratios[rounds])
    assert.truthy(ratio <= 2, ratio)
  end)

  it("in numbers leave memory and descriptors as they were", function()
    s = soak.start()
    local function reload(from, to)
      for n = from, to do
        soak.save(s, n)
        soak.chowk(s, "reload")
        if n % 100 == 0 then soak.say("%d reloads", n) end
      end
      for _ = 1, 200 do assert.equal(200, s:get("/").status) end
    end
    local function footprints()
      local list = { { s.pid, "master" } }
      for i, pid in ipairs(soak.workers(s)) do list[i + 1] = { pid, "worker " .. i } end
      for _, entry in ipairs(list) do entry.bytes, entry.fds = soak.footprint(entry[1]) end
      return list
    end
    reload(1, 10)
    local before = footprints()
    reload(11, soak.n_reloads)
    for _, then_ in ipairs(before) do
      local bytes, fds
      pcall(server.eventually, "the descriptors of before", function()
        bytes, fds = soak.footprint(then_[1])
        return fds <= then_.fds
      end)
      soak.say("%s: %.1f MiB after 10 reloads, %.1f MiB after %d (%+.1f %%); descriptors %d, %d", then_[2],
        then_.bytes / 2 ^ 20, bytes / 2 ^ 20, soak.n_reloads, (bytes / then_.bytes - 1) * 100, then_.fds, fds)
      then_.grown, then_.more = bytes / then_.bytes, fds - then_.fds
    end
    for _, entry in ipairs(before) do
      assert.truthy(entry.more <= 0, entry[2] .. ": descriptors")
      assert.truthy(entry.grown < 1.10, entry[2] .. ": memory " .. entry.grown)
    end
  end)
end)
