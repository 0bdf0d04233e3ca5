-- Receiving webhooks: what is read, what is believed, what is acknowledged; what cannot be applied, and a human's hand.
local postgres = require "spec.support.postgres"
local server = require "spec.support.server"
local shop = require "spec.support.shop"

local MUG = "MGCHAI-11OZ"

describe("a webhook", function()
  local pg, s
  setup(function()
    pg = postgres.start()
    s = shop.start(server, { pg = pg })
  end)
  teardown(function()
    s:stop()
    pg:destroy()
  end)

  local function place() return shop.place(s, { [MUG] = 1 }) end
  local function becomes(state, order)
    server.eventually("order is " .. state, function() return shop.state(s, order) == state end)
  end
  local function stored(where) return #s:sql("SELECT 1 FROM webhook_events WHERE " .. where) end
  local function captured(order, more) return shop.payment_event("payment.captured", order, shop.payment_id(), more) end
  local function chowk(arguments)
    return server.sh(("cd %s && DATABASE_URL='%s' %s %s"):format(s.dir, s.database_url, os.getenv "CHOWK", arguments))
  end

  it("is read up to 256 KiB", function()
    local order = place()
    local function padded(n)
      local body = captured(order)
      return body .. (" "):rep(n - #body)
    end
    assert.equal(413, shop.webhook(s, padded(256 * 1024 + 1), "EvtTooLarge").status)
    assert.equal(200, shop.webhook(s, padded(256 * 1024), "EvtLarge").status)
    assert.same({ 0, 1 }, { stored "event_id = 'EvtTooLarge'", stored "event_id = 'EvtLarge'" })
    becomes("confirmed/paid", order)
  end)

  it("is verified before anything of it is read", function()
    local deep = ("["):rep(10000)
    for _, body in ipairs { "nonsense", deep, "" } do
      assert.equal("bad_signature", shop.webhook(s, body, nil, ("0"):rep(64)).json.code)
      assert.equal("invalid_event", shop.webhook(s, body).json.code)
    end
  end)

  it("is answered when it is stored, and applied afterwards", function()
    local order = place()
    local lock = s:hold("BEGIN; SELECT 1 FROM orders WHERE order_number = '" .. order.number .. "' FOR UPDATE")
    local best = math.huge
    for i = 1, 5 do -- nobody can touch the order, and nobody waits for it
      local call = shop.webhook_call(captured(order), "EvtLocked" .. i)
      local answer = s:parallel({ call })[1]
      assert.equal(200, answer.status)
      best = math.min(best, answer.seconds)
    end
    assert.truthy(best < 1, best) -- ten times what it may take
    assert.equal("pending/unpaid", shop.state(s, order))
    lock:close()
    becomes("confirmed/paid", order)
  end)

  it("is parked when the database refuses it, and replayed by hand", function()
    local order = place()
    s:exec("ALTER TABLE payments ADD CONSTRAINT spec CHECK (fee_paise <> 77)")
    assert.equal(200, shop.webhook(s, captured(order, { fee = 77 }), "EvtRefused").status)
    server.eventually("parked", function()
      return stored "event_id = 'EvtRefused' AND next_attempt_at = 'infinity'" == 1
    end)
    assert.equal("discarded", s:sql("SELECT state FROM jobs WHERE args->>'event_id' = 'EvtRefused'")[1].state)
    shop.run(s, "webhook.sweep")
    assert.equal(1, #s:sql("SELECT 1 FROM jobs WHERE args->>'event_id' = 'EvtRefused'")) -- left for a human

    local out, code = chowk "webhook"
    assert.equal(0, code)
    assert.truthy(out:find("payment.captured +EvtRefused\n +.*violates check constraint"), out)
    assert.truthy((chowk "webhook list --json"):find('"event_id":"EvtRefused"', 1, true))
    s:exec("ALTER TABLE payments DROP CONSTRAINT spec")
    out, code = chowk "webhook replay EvtRefused"
    assert.same({ "to be applied again: EvtRefused\n", 0 }, { out, code })
    becomes("confirmed/paid", order)
    assert.equal("no webhooks\n", (chowk "webhook list"))
    assert.equal(0, select(2, chowk "webhook replay EvtRefused")) -- again changes nothing
    server.eventually("applied again", function() return stored "processed_at IS NULL" == 0 end)
    assert.equal("order.place payment.capture order.confirm", shop.events(s, order))
    assert.equal(1, select(2, chowk "webhook replay EvtNone"))
    for _, misuse in ipairs { "webhook replay", "webhook reply", "webhook replay a b", "webhook replay a --json" } do
      assert.equal(2, select(2, chowk(misuse)), misuse)
    end
  end)

  it("is not acknowledged unless it is stored, also when PostgreSQL goes away", function()
    local order, acknowledged, refused = place(), {}, 0
    for i = 1, 24 do
      if i == 8 then pg:stop("immediate") end
      if i == 16 then pg:start() end
      local answer = shop.webhook(s, captured(order), "EvtAway" .. i)
      if answer.status == 200 then
        acknowledged[#acknowledged + 1] = "'EvtAway" .. i .. "'"
      else
        assert.same({ 503, true }, { answer.status, answer.headers["retry-after"] ~= nil })
        refused = refused + 1
      end
    end
    assert.truthy(refused >= 8, refused)
    server.eventually("it heals", function()
      return shop.webhook(s, captured(order), "EvtHealed").status == 200
    end)
    assert.equal(#acknowledged, stored("event_id IN (" .. table.concat(acknowledged, ", ") .. ")"))
    becomes("confirmed/paid", order)
  end)
end)
