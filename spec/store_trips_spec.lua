-- What an order costs on the wire: round trips to PostgreSQL, counted by a proxy between the two.
local server = require "spec.support.server"
local shop = require "spec.support.shop"
local proxy = require "spec.support.proxy"

local MUG, POSTER = "MGCHAI-11OZ", "POHAMPI-A4"

describe("an order's round trips", function()
  local s, wire

  setup(function()
    wire = proxy.start(os.getenv("TEST_PG_DIR") .. "/.s.PGSQL.5432")
    s = shop.start(server, { config = { workers = 1, jobs = { workers = 0 } }, url = function(name)
      return ("postgresql://chowk@127.0.0.1:%d/%s"):format(wire.port, name)
    end })
    for _ = 1, 4 do shop.place(s, { [MUG] = 1 }) end -- connected, prepared
  end)
  teardown(function()
    s:stop()
    wire:stop()
  end)

  -- On each connection that had any, the busiest last.
  local function trips(fn)
    wire:tell "trips"
    fn()
    local list = {}
    for n in wire:tell("trips"):gmatch "%d+" do list[#list + 1] = tonumber(n) end
    return list
  end

  it("are two, BEGIN, the claim of the key and COMMIT among them", function()
    local least = math.huge -- beside it, on a connection of the core's, numbers are leased and workers told of jobs
    for _ = 1, 10 do
      local list = trips(function() shop.place(s, { { MUG, 2 }, { POSTER, 1 } }) end)
      least = math.min(least, list[#list])
    end
    assert.equal(2, least)
  end)

  it("are counted as they are", function()
    local order = shop.place(s, { [MUG] = 1 })
    local function read()
      local headers = { Authorization = "Order " .. order.access_token }
      assert.equal(200, s:get("/api/orders/" .. order.number, { headers = headers }).status)
    end
    read()
    assert.same({ 1 }, trips(read))
  end)
end)
