-- kill -9 of everything, at every step of an order with its payment, and of one whose money is given back: at the end
-- there is one order, one Razorpay order, one captured payment, one refund, and the stock is exact.
--
-- A step stands at a barrier, a row or table locked by another session or a Razorpay that does not answer, when master,
-- workers and job workers are killed. Then all is started anew, and the client tries again as clients do.
local json = require "dkjson"
local razorpay = require "spec.support.sandbox"
local server = require "spec.support.server"
local shop = require "spec.support.shop"

local BOTTLE = "WBPLAIN-500"

describe("a shop that is killed at every step", function()
  local s, sandbox
  setup(function()
    s, sandbox = razorpay.with_shop(server, shop, { env = { LIMITS = "off" },
      config = { workers = 2, payments = { confirm = "fetch" }, jobs = { lease = "1s", workers = 1 } } })
  end)
  teardown(function()
    s:stop()
    sandbox:stop()
  end)

  local function behave(behaviour) assert.equal(200, sandbox:post("/sandbox/behave", { json = behaviour }).status) end
  local function count(from) return s:sql("SELECT count(*) AS n FROM " .. from)[1].n end

  -- ---- barriers: { up, stands, down } -----------------------------------------------------------------------

  local function locked(sql)
    local lock
    return {
      up = function() lock = s:hold("BEGIN; " .. sql) end,
      stands = function()
        return count "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'" > 0
      end,
      down = function() lock:close() end,
    }
  end
  local function unanswered(path, how)
    return {
      up = function() behave { drop = true, fail = { path = path, times = 1, how = how } } end,
      stands = function() return sandbox:get("/sandbox/behave").json.fail.times == 0 end,
      down = function() end,
    }
  end

  -- ---- death and life ---------------------------------------------------------------------------------------

  local function kill_everything()
    s:kill "STOP"   -- so that nobody is born meanwhile
    local children = s:processes()
    server.sh(("kill -9 %d %s"):format(s.pid, table.concat(children, " ")))
    s:wait_exit()
    for _, pid in ipairs(children) do   -- what it held, its lock of the run directory too, goes with the last one
      server.eventually("end of " .. pid, function()
        return not server.sh("ps -o stat= -p " .. pid):find "^%s*[^Z%s]"   -- gone, or waits to be reaped
      end)
    end
  end

  local function begin(call)
    local opts, headers = call[3], {}
    for name, value in pairs(opts.headers or {}) do headers[#headers + 1] = ("-H '%s: %s'"):format(name, value) end
    local pipe = assert(io.popen(("curl -s -m 60 -X %s %s --json '%s' http://127.0.0.1:%d%s"):format(call[1],
      table.concat(headers, " "), json.encode(opts.json), s.port, call[2])))
    return function() pipe:close() end
  end

  local function die_at(barrier, what)
    barrier.up()
    local finish = what and begin(what)
    server.eventually("it to stand", barrier.stands)
    kill_everything()
    if finish then finish() end
    barrier.down()
    s:start_process()
  end

  -- What a client does: the same again, until there is an answer that is one.
  local function insist(call, status)
    local answer
    server.eventually("an answer", function()
      answer = s:request(call[1], call[2], call[3])
      assert.truthy(answer.status == status or answer.status == 409 or answer.status == 503, answer.body)
      return answer.status == status
    end, 60)
    return answer.json
  end

  local function settled()
    server.eventually("every webhook applied", function()
      return count "webhook_events WHERE processed_at IS NULL" == 0
    end, 60)
  end

  local function ledger(order)
    local row = s:sql(([[
      SELECT o.status || '/' || o.payment_status AS state,
        (SELECT count(*) FROM order_items i WHERE i.order_id = o.id) AS lines,
        (SELECT count(*) FROM payments p WHERE p.order_id = o.id) AS payments,
        (SELECT count(*) FROM order_events e WHERE e.order_id = o.id AND e.to_status = 'paid') AS paid,
        (SELECT count(*) FROM refunds r JOIN payments p ON p.id = r.payment_id WHERE p.order_id = o.id) AS refunds
      FROM orders o WHERE o.order_number = '%s']]):format(order.number))[1]
    local n_opened, n_captured = 0, 0
    for _, o in ipairs(sandbox:get("/sandbox/orders").json.items) do
      if o.receipt == order.number then n_opened = n_opened + 1 end
    end
    for _, p in ipairs(sandbox:get("/sandbox/payments").json.items) do
      if p.order_id == order.razorpay_order_id and p.captured then n_captured = n_captured + 1 end
    end
    return { row.state, lines = row.lines, payments = row.payments, paid = row.paid, refunds = row.refunds,
      opened = n_opened, captured = n_captured }
  end

  local function stock(on_hand)
    s:exec(("UPDATE inventory SET track = true, on_hand = %d, reserved = 0 WHERE sku = '%s'"):format(on_hand, BOTTLE))
  end
  local function reserved()
    return s:sql("SELECT reserved FROM inventory WHERE sku = '" .. BOTTLE .. "'")[1].reserved
  end
  local function of(order) return "SELECT 1 FROM orders WHERE order_number = '" .. order.number .. "' FOR UPDATE" end
  local function opening(order)
    return { "POST", "/api/orders/" .. order.number .. "/payment",
      { json = { a = 1 }, timeout = 60, headers = { Authorization = "Order " .. order.access_token } } }
  end

  it("sells once, takes the money once", function()
    stock(10)
    local placing = shop.order_call({ [BOTTLE] = 2 })
    die_at(locked("SELECT 1 FROM inventory WHERE sku = '" .. BOTTLE .. "' FOR UPDATE"), placing)  -- nothing is written
    die_at(locked "LOCK TABLE order_items IN EXCLUSIVE MODE", placing)                            -- at its commit
    local order = insist(placing, 201)
    assert.equal(order.number, insist(placing, 201).number)

    die_at(unanswered("/v1/orders", "hang"), opening(order))      -- Razorpay was asked, and had not begun
    die_at(unanswered("/v1/orders", "lost"), opening(order))      -- … had done it
    die_at(locked(of(order)), opening(order))           -- its answer was here, and not stored
    order.razorpay_order_id = insist(opening(order), 200).razorpay_order_id

    behave { drop = true }
    local proof = sandbox:post("/sandbox/pay",
      { json = { order_id = order.razorpay_order_id, outcome = "authorized" } }).json
    local proving = { "POST", "/api/payments/verify", { json = proof, timeout = 60 } }
    die_at(locked(of(order)), proving)
    die_at(unanswered("/v1/payments", "hang"), proving)           -- the proof is stored, Razorpay not asked
    die_at(unanswered("/capture", "lost"), proving)               -- captured, and nobody here knows
    assert.equal("paid", insist(proving, 200).payment_status)

    behave { duplicates = 2, shuffle = true }
    local webhooks = locked "LOCK TABLE webhook_events IN EXCLUSIVE MODE"
    webhooks.up()
    sandbox:post "/sandbox/redeliver"
    die_at({ up = function() end, stands = webhooks.stands, down = webhooks.down })
    sandbox:post "/sandbox/redeliver"
    settled()
    assert.same({ "confirmed/paid", lines = 1, payments = 1, paid = 1, refunds = 0, opened = 1, captured = 1 },
      ledger(order))
    assert.same({ 1, 2 }, { count "orders", reserved() })
  end)

  it("gives late money back once", function()
    stock(2)
    local order = insist(shop.order_call({ [BOTTLE] = 2 }), 201)
    order.razorpay_order_id = insist(opening(order), 200).razorpay_order_id
    s:exec("UPDATE orders SET status = 'expired' WHERE order_number = '" .. order.number .. "'")
    stock(0)

    local applying = locked(of(order))
    applying.up()
    behave { duplicates = 1 }
    sandbox:post("/sandbox/pay", { json = { order_id = order.razorpay_order_id } })
    die_at({ up = function() end, stands = applying.stands, down = function()  -- the webhook's job
      behave { duplicates = 1, fail = { path = "/refund", times = 1, how = "hang" } }
      applying.down()
    end })
    die_at { up = function() end, stands = unanswered("", "").stands, down = function()  -- Razorpay had not begun
      behave { duplicates = 1, fail = { path = "/refund", times = 1, how = "lost" } }
    end }
    local telling = locked "LOCK TABLE refunds IN EXCLUSIVE MODE"
    die_at { up = function() end, stands = unanswered("", "").stands, down = telling.up }    -- … had done it
    die_at { up = function() end, stands = telling.stands, down = telling.down }             -- its answer was here
    server.eventually("the refund's job", function()
      return count "jobs WHERE kind = 'refund.send' AND state = 'completed'" == 1
    end, 60)
    settled()
    assert.same({ "expired/refunded", lines = 1, payments = 1, paid = 1, refunds = 1, opened = 1, captured = 1 },
      ledger(order))
    assert.equal(1, #sandbox:get("/sandbox/refunds").json.items)
    assert.equal(0, reserved())
  end)
end)
