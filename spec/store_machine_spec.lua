-- An order's three axes: every move, every one that is refused, what hangs on them, and many at once.
local server = require "spec.support.server"
local shop = require "spec.support.shop"

describe("the migration to three axes", function()
  it("carries data over", function()
    local s = server.start { app = "return require('chowk.app').routes()" }
    local function migrate(glob)
      local out, code = server.sh("for f in " .. glob .. "; do psql -X -q -v ON_ERROR_STOP=1 '" .. s.database_url
        .. "' -1 -f $f || exit 1; done")
      assert.equal(0, code, out)
    end
    migrate "migrations/000[0-9]*.sql"
    s:exec [[
      INSERT INTO orders (order_number, email, status, subtotal_paise, total_paise, shipping_address)
      SELECT 'PC-' || status, 'a@example.in', status, 1, 1, '{}' FROM unnest(enum_range(NULL::order_status)) status;
      INSERT INTO order_events (order_id, type, actor) SELECT id, 'order_placed', 'customer' FROM orders]]
    migrate "migrations/0010_*.sql"
    local found = {}
    for _, row in ipairs(s:sql "SELECT state, order_number, status || '/' || fulfilment_status AS axes FROM orders") do
      assert.equal("PC-" .. row.state, row.order_number)   -- to the outside nothing has changed
      found[row.state] = row.axes
    end
    assert.same({ pending = "pending/unfulfilled", confirmed = "confirmed/unfulfilled",
      processing = "confirmed/processing", shipped = "confirmed/shipped", delivered = "confirmed/delivered",
      returned = "confirmed/returned", cancelled = "cancelled/unfulfilled", expired = "expired/unfulfilled" }, found)
    assert.equal(8, s:sql("SELECT count(*) AS n FROM order_events WHERE type = 'order.place'")[1].n)
    s:stop()
  end)
end)

local MUG, BOTTLE = "MGCHAI-11OZ", "WBPLAIN-500"
local NOTHING = setmetatable({}, { __jsontype = "object" })   -- {}, where an empty table is written as []

describe("an order", function()
  local s
  setup(function()
    s = shop.start(server, { config = { workers = 2 },
      env = { ADMIN_TOKEN = "spec-admin", SUPABASE_JWT_SECRET = shop.JWT_SECRET } })
  end)
  teardown(function() s:stop() end)

  local ADMIN = { Authorization = "Bearer spec-admin" }
  local function admin_call(order, what, body)
    return { "POST", "/api/admin/orders/" .. order.number .. "/" .. what, { json = body, headers = ADMIN } }
  end
  local function admin(order, what, body)
    local call = admin_call(order, what, body)
    return s:request(call[1], call[2], call[3])
  end
  local function refund(order, body, key)
    return s:post("/api/admin/orders/" .. order.number .. "/refunds", { json = body or NOTHING,
      headers = { Authorization = "Bearer spec-admin", ["Idempotency-Key"] = key or shop.key() } })
  end
  local function cancel_call(order)
    return { "POST", "/api/orders/" .. order.number .. "/cancel",
      { headers = { Authorization = "Order " .. order.access_token } } }
  end
  local function cancel(order)
    local call = cancel_call(order)
    return s:request(call[1], call[2], call[3])
  end
  local function read(order)
    return s:get("/api/orders/" .. order.number, { headers = { Authorization = "Order " .. order.access_token } }).json
  end
  local function place(items, more) return shop.place(s, items or { [MUG] = 1 }, more) end
  local function pay(order)
    local payment_id = shop.payment_id()
    local answer = s:post("/api/payments/verify", { json = shop.proof(order, payment_id) })
    assert.equal(200, answer.status, answer.body)
    order.payment_id = payment_id
    return order
  end
  local function paid(items, more) return pay(place(items, more)) end
  local SHIP = { carrier = "Delhivery", tracking_number = "DL42" }
  local function shipped(items)
    local order = paid(items)
    assert.equal(200, admin(order, "process").status)
    local answer = admin(order, "ship", SHIP)
    assert.equal(200, answer.status, answer.body)
    return order
  end
  local function axes(order)
    local row = s:sql("SELECT status, payment_status, fulfilment_status FROM orders WHERE order_number = '"
      .. order.number .. "'")[1]
    return table.concat({ row.status, row.payment_status, row.fulfilment_status }, "/")
  end
  local function stock(on_hand)
    if on_hand then
      s:exec("UPDATE inventory SET on_hand = " .. on_hand .. ", reserved = 0 WHERE sku = '" .. BOTTLE .. "'")
    end
    local row = s:sql("SELECT on_hand, reserved FROM inventory WHERE sku = '" .. BOTTLE .. "'")[1]
    return { row.on_hand, row.reserved }
  end
  local function jobs_of(kind, order)
    return s:sql("SELECT args FROM jobs WHERE kind = '" .. kind .. "' AND (args->>'order_number' = '" .. order.number
      .. "' OR args->>'id' = (SELECT id::text FROM orders WHERE order_number = '" .. order.number .. "')) ORDER BY id")
  end
  local function refused(answer, from, to)
    assert.same({ 409, "illegal_transition" }, { answer.status, answer.json.code }, answer.body)
    assert.same({ from, to }, { answer.json.from, answer.json.to })
  end
  local function refund_hook(order, id, amount)
    shop.webhook(s, shop.refund_event("processed", order, order.payment_id, id, amount))
  end

  describe("on its way", function()
    it("is processed, shipped, delivered and taken back, each with its event", function()
      stock(9)
      local order = paid { [BOTTLE] = 2 }
      assert.same({ 9, 2 }, stock())
      assert.same({ number = order.number, status = "processing", payment_status = "paid" },
        admin(order, "process").json)
      assert.equal("shipped", admin(order, "ship", SHIP).json.status)
      assert.same({ 7, 0 }, stock())
      local seen = read(order)
      assert.same({ "shipped", "Delhivery", "DL42" }, { seen.status, seen.carrier, seen.tracking_number })
      assert.equal("delivered", admin(order, "deliver").json.status)
      assert.equal("returned", admin(order, "return", { restock = true }).json.status)
      assert.same({ 9, 0 }, stock())
      assert.equal("confirmed/paid/returned", axes(order))
      assert.equal("order.place payment.capture order.confirm fulfilment.process fulfilment.ship fulfilment.deliver"
        .. " fulfilment.take_back", shop.events(s, order))
      local events = s:get("/api/admin/orders/" .. order.number, { headers = ADMIN }).json.events
      assert.same({ "fulfilment.ship", "processing", "shipped", "admin", "Delhivery" },
        { events[5].type, events[5].from, events[5].to, events[5].actor, events[5].data.carrier })
    end)

    it("stays out of the stock when it comes back broken", function()
      stock(5)
      local order = shipped { [BOTTLE] = 1 }
      assert.equal(200, admin(order, "return", { restock = false }).status)
      assert.same({ 4, 0 }, stock())
      refused(admin(order, "deliver"), "returned", "delivered")
    end)

    it("makes no other move, and changes nothing by trying", function()
      local unpaid, confirmed, processing, gone = place(), paid(), paid(), shipped()
      admin(processing, "process")
      local cases = {
        { unpaid, "process", nil, "pending", "processing" },
        { unpaid, "ship", SHIP, "pending", "processing" },
        { unpaid, "deliver", nil, "unfulfilled", "delivered" },
        { confirmed, "ship", SHIP, "unfulfilled", "shipped" },
        { confirmed, "deliver", nil, "unfulfilled", "delivered" },
        { confirmed, "return", { restock = true }, "unfulfilled", "returned" },
        { processing, "process", nil, "processing", "processing" },
        { processing, "deliver", nil, "processing", "delivered" },
        { gone, "process", nil, "shipped", "processing" },
        { gone, "ship", SHIP, "shipped", "shipped" },
        { gone, "cancel", NOTHING, "shipped", "processing" },
      }
      local before = {}
      for i, case in ipairs(cases) do before[i] = axes(case[1]) .. shop.events(s, case[1]) end
      local n_jobs = s:sql("SELECT max(id) AS n FROM jobs")[1].n
      for i, case in ipairs(cases) do
        refused(admin(case[1], case[2], case[3]), case[4], case[5])
        assert.equal(before[i], axes(case[1]) .. shop.events(s, case[1]), "case " .. i)
      end
      assert.equal(n_jobs, s:sql("SELECT max(id) AS n FROM jobs")[1].n)
    end)

    it("needs its money, and the admin's token", function()
      local order = paid()
      s:exec("UPDATE orders SET payment_status = 'refunded' WHERE order_number = '" .. order.number .. "'")
      assert.equal("not_paid", admin(order, "process").json.code)
      assert.equal(404, admin({ number = "PC-NONE" }, "process").status)
      assert.equal(403, s:post("/api/admin/orders/" .. order.number .. "/process").status)
      assert.equal(422, admin(order, "ship", {}).status)
    end)

    it("needs money that is not about to go back", function()
      local order = paid()
      refund(order)
      assert.same({ 409, "not_paid" }, { admin(order, "process").status, admin(order, "process").json.code })
      s:exec("UPDATE refunds SET status = 'failed' WHERE payment_id = (SELECT id FROM payments WHERE"
        .. " razorpay_payment_id = '" .. order.payment_id .. "')")
      assert.equal(200, admin(order, "process").status)
      refund(order, { amount_paise = order.total_paise - 100 })
      refund(order, { amount_paise = 100 })
      assert.equal("not_paid", admin(order, "ship", SHIP).json.code)
      assert.equal("confirmed/paid/processing", axes(order))
      local part = paid()
      refund(part, { amount_paise = 100 })
      assert.equal(200, admin(part, "process").status)
      assert.equal(200, admin(part, "ship", SHIP).status)
    end)

    it("is moved by one of many", function()
      stock(9)
      local order = paid { [BOTTLE] = 3 }
      admin(order, "process")
      local calls, won = {}, 0
      for i = 1, 12 do calls[i] = admin_call(order, "ship", SHIP) end
      for _, answer in ipairs(s:parallel(calls)) do
        if answer.status == 200 then won = won + 1 else refused(answer, "shipped", "shipped") end
      end
      assert.equal(1, won)
      assert.same({ 6, 0 }, stock())
      assert.equal(1, s:sql("SELECT count(*) AS n FROM invoices i JOIN orders o ON o.id = i.order_id"
        .. " WHERE o.order_number = '" .. order.number .. "'")[1].n)
    end)
  end)

  describe("that is cancelled", function()
    it("gives back its stock and its coupon when it was not paid", function()
      stock(9)
      local order = place({ [BOTTLE] = 4 }, { coupon = "FLAT100", email = "cancel@example.in" })
      local used = s:sql("SELECT used AS n FROM coupons WHERE code = 'FLAT100'")[1].n
      assert.same({ number = order.number, status = "cancelled", payment_status = "unpaid" }, cancel(order).json)
      assert.same({ 9, 0 }, stock())
      assert.equal(used - 1, s:sql("SELECT used AS n FROM coupons WHERE code = 'FLAT100'")[1].n)
      assert.equal(0, #jobs_of("refund.send", order))
      assert.equal(200, cancel(order).status)   -- an answer may be lost: asking again is no mistake
      assert.equal("order.place order.cancel", shop.events(s, order))
      assert.same({ 9, 0 }, stock())
    end)

    it("has its money given back once, whoever asks and however often", function()
      stock(9)
      local order = paid { [BOTTLE] = 1 }
      local calls = {}
      for i = 1, 10 do calls[i] = i % 2 == 0 and cancel_call(order) or admin_call(order, "cancel", NOTHING) end
      for _, answer in ipairs(s:parallel(calls)) do assert.equal(200, answer.status, answer.body) end
      assert.equal("cancelled/paid/unfulfilled", axes(order))
      assert.same({ 9, 0 }, stock())
      local sent = jobs_of("refund.send", order)
      assert.same({ 1, order.total_paise, order.payment_id }, { #sent, sent[1].args.amount_paise,
        sent[1].args.payment_id })
      assert.same({ { amount_paise = order.total_paise, reason = "cancelled", idem_key = sent[1].args.key } },
        s:sql("SELECT r.amount_paise, r.reason, r.idem_key FROM refunds r JOIN payments p ON p.id = r.payment_id"
          .. " WHERE p.razorpay_payment_id = '" .. order.payment_id .. "'"))
      assert.equal("nothing_to_refund", refund(order).json.code)
    end)

    it("is not once it is made ready, but by the shop", function()
      stock(9)
      local order = paid { [BOTTLE] = 1 }
      admin(order, "process")
      refused(cancel(order), "processing", "processing")
      assert.equal("cancelled", admin(order, "cancel", { reason = "misprint" }).json.status)
      assert.equal("order.place payment.capture order.confirm fulfilment.process fulfilment.stop order.cancel",
        shop.events(s, order))
      assert.same({ 9, 0 }, stock())
    end)

    it("is not while its money is on its way, nor by others", function()
      local order, other = place(), place()
      s:exec("UPDATE orders SET payment_status = 'authorized' WHERE order_number = '" .. order.number .. "'")
      assert.equal("payment_in_progress", cancel(order).json.code)
      assert.equal(404, cancel({ number = order.number, access_token = other.access_token }).status)
      assert.equal(404, s:post("/api/orders/" .. order.number .. "/cancel").status)
      s:exec("UPDATE orders SET status = 'expired', payment_status = 'failed' WHERE order_number = '"
        .. order.number .. "'")
      refused(cancel(order), "expired", "cancelled")
    end)

    it("is sold after all when its money comes late, or the money goes back", function()
      stock(2)
      local order, late = place { [BOTTLE] = 1 }, place { [BOTTLE] = 1 }
      cancel(order)
      cancel(late)
      stock(1)
      pay(order)
      assert.equal("confirmed/paid/unfulfilled", axes(order))
      assert.same({ 1, 1 }, stock())
      pay(late)
      assert.equal("cancelled/paid/unfulfilled", axes(late))
      assert.equal(late.total_paise, jobs_of("refund.send", late)[1].args.amount_paise)
      assert.equal("order.place order.cancel payment.capture", shop.events(s, late))
    end)

    it("and whatever fails with it, is not", function()
      stock(9)
      local order = paid { [BOTTLE] = 1 }
      s:exec [[CREATE FUNCTION refuse_job() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no room''; END';
        CREATE TRIGGER refuse BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.kind = 'refund.send')
        EXECUTE FUNCTION refuse_job()]]
      assert.equal(500, cancel(order).status)
      s:exec "DROP TRIGGER refuse ON jobs"
      assert.equal("confirmed/paid/unfulfilled", axes(order))
      assert.same({ 9, 1 }, stock())
      assert.equal(0, #s:sql("SELECT 1 FROM refunds r JOIN payments p ON p.id = r.payment_id"
        .. " WHERE p.razorpay_payment_id = '" .. order.payment_id .. "'"))
    end)
  end)

  describe("and its money", function()
    it("goes back in parts, never more than there is", function()
      local order, key = paid(), shop.key()
      local first = refund(order, { amount_paise = 10000, reason = "a scratch" }, key)
      assert.same({ 202, 10000, "requested", order.payment_id },
        { first.status, first.json.amount_paise, first.json.status, first.json.payment_id })
      assert.equal(first.body, refund(order, { amount_paise = 10000, reason = "a scratch" }, key).body)
      local much = refund(order, { amount_paise = 24901 })
      assert.same({ 409, "refund_too_large", 24900 }, { much.status, much.json.code, much.json.left_paise })
      assert.equal(24900, refund(order).json.amount_paise)
      assert.equal("nothing_to_refund", refund(order).json.code)
      assert.equal(2, #jobs_of("refund.send", order))
      assert.equal("nothing_to_refund", refund(place()).json.code)
      assert.equal("nothing_to_refund", refund(paid(), { payment_id = order.payment_id }).json.code)
    end)

    -- Requests are held up where they are stored, until several wait: for that, or for who is there already.
    it("goes back at most once, to many who ask at once", function()
      local order, calls, sum = paid(), {}, 0
      local lock = s:hold "BEGIN; LOCK TABLE refunds IN EXCLUSIVE MODE"
      lock:write([[
        DO $$ BEGIN WHILE (SELECT count(*) FROM pg_locks WHERE NOT granted) < 2 LOOP PERFORM pg_sleep(0.01); END LOOP;
        END $$; COMMIT;]], "\n")
      lock:flush()
      for i = 1, 6 do
        calls[i] = { "POST", "/api/admin/orders/" .. order.number .. "/refunds", { json = { amount_paise = 20000 },
          headers = { Authorization = "Bearer spec-admin", ["Idempotency-Key"] = shop.key() } } }
      end
      for _, answer in ipairs(s:parallel(calls)) do
        if answer.status == 202 then sum = sum + answer.json.amount_paise else assert.equal(409, answer.status) end
      end
      lock:close()
      assert.equal(20000, sum)
    end)

    it("that failed to go back can be given back again", function()
      local order = paid()
      refund(order)
      s:exec("UPDATE refunds SET status = 'failed' WHERE payment_id = (SELECT id FROM payments WHERE"
        .. " razorpay_payment_id = '" .. order.payment_id .. "')")
      assert.equal(order.total_paise, refund(order).json.amount_paise)
    end)

    it("that failed to go back was given back by hand, says an admin", function()
      local order, key = paid(), shop.key()
      refund(order)
      s:exec("UPDATE refunds SET status = 'failed' WHERE payment_id = (SELECT id FROM payments WHERE"
        .. " razorpay_payment_id = '" .. order.payment_id .. "')")
      local function needs_attention()
        local found = s:get("/api/admin/orders?attention=true&limit=100", { headers = ADMIN })
        return found.body:find(order.number, 1, true)
      end
      assert.truthy(needs_attention())
      local n_sent = #jobs_of("refund.send", order)
      local part = { amount_paise = 10000, by_hand = { reference = "UTR 42" } }
      local first = refund(order, part, key)
      assert.same({ 201, 10000, "processed", order.payment_id },
        { first.status, first.json.amount_paise, first.json.status, first.json.payment_id })
      assert.equal(first.body, refund(order, part, key).body)
      assert.is_nil(needs_attention())
      assert.equal("confirmed/partially_refunded/unfulfilled", axes(order))
      local much = refund(order, { amount_paise = 24901, by_hand = { reference = "cash" } })
      assert.same({ 409, "refund_too_large", 24900 }, { much.status, much.json.code, much.json.left_paise })
      assert.equal(24900, refund(order, { by_hand = { reference = "cash" } }).json.amount_paise)
      assert.equal("nothing_to_refund", refund(order).json.code)
      assert.equal("confirmed/refunded/unfulfilled", axes(order))
      assert.equal(n_sent, #jobs_of("refund.send", order))
      assert.equal(422, refund(paid(), { by_hand = NOTHING }).status)
      local told = {}
      for _, e in ipairs(s:get("/api/admin/orders/" .. order.number, { headers = ADMIN }).json.events) do
        if e.type:find "refund" then told[#told + 1] = { e.type, e.actor, e.data.amount_paise, e.data.reference } end
      end
      assert.same({ { "refund.by_hand", "admin", 10000, "UTR 42" }, { "payment.refund_part", "admin" },
        { "refund.by_hand", "admin", 24900, "cash" }, { "payment.refund", "admin" } }, told)
    end)

    it("came twice: the second goes back, and the order stays paid", function()
      local order = paid()
      local first = order.payment_id
      pay(order)
      refund_hook(order, "rfnd_SpecTwice0001", order.total_paise)
      server.eventually("recorded", function()
        return #s:sql("SELECT 1 FROM payments WHERE status = 'refunded' AND razorpay_payment_id = '"
          .. order.payment_id .. "'") == 1
      end)
      assert.equal("confirmed/paid/unfulfilled", axes(order))
      order.payment_id = first
      refund_hook(order, "rfnd_SpecTwice0002", order.total_paise)
      server.eventually("refunded", function() return axes(order) == "confirmed/refunded/unfulfilled" end)
    end)
  end)

  describe("'s papers", function()
    it("are an invoice when it is shipped, and credit notes that add up to its tax", function()
      local order = paid { { MUG, 2 }, { "POHAMPI-A4", 1 } }
      refund_hook(order, "rfnd_SpecNote0000", 100)   -- before there is an invoice
      server.eventually("refunded in part", function() return axes(order):find "partially_refunded" end)
      assert.is_nil(read(order).invoice)
      admin(order, "process")
      admin(order, "ship", SHIP)
      local invoice = read(order).invoice
      assert.truthy(invoice:find "^INV%d%d%d%d/%d%d%d%d%d%d$")
      refund_hook(order, "rfnd_SpecNote0001", 10001)
      refund_hook(order, "rfnd_SpecNote0002", order.total_paise - 10101)
      server.eventually("three credit notes", function() return #read(order).credit_notes == 3 end)
      assert.truthy(read(order).credit_notes[1]:find "^CN%d%d%d%d/%d%d%d%d%d%d$")
      local sum = s:sql("SELECT sum(n.amount_paise) AS amount, sum(n.tax_paise) AS tax, min(i.tax_paise) AS of,"
        .. " min(n.tax_paise) AS least FROM credit_notes n JOIN invoices i ON i.number = n.invoice WHERE i.number = '"
        .. invoice .. "'")[1]
      assert.same({ order.total_paise, sum.of }, { sum.amount, sum.tax })
      assert.truthy(sum.of > 0 and sum.least >= 0)
    end)

    it("credit what is missing of the price, not what came twice", function()
      local order = paid()
      local first = order.payment_id
      pay(order)
      refund_hook(order, "rfnd_SpecDouble001", order.total_paise)
      server.eventually("recorded", function()
        return #s:sql("SELECT 1 FROM payments WHERE status = 'refunded' AND razorpay_payment_id = '"
          .. order.payment_id .. "'") == 1
      end)
      admin(order, "process")
      assert.equal(200, admin(order, "ship", SHIP).status)
      local function credited()
        server.eventually("all credited", function()
          return #s:sql "SELECT 1 FROM jobs WHERE kind = 'credit_note.issue' AND state <> 'completed'" == 0
        end)
        local row = s:sql("SELECT string_agg(n.amount_paise::text, ' ' ORDER BY n.number) AS amounts,"
          .. " coalesce(sum(n.tax_paise), 0) AS tax, min(i.tax_paise) AS of FROM invoices i JOIN orders o"
          .. " ON o.id = i.order_id LEFT JOIN credit_notes n ON n.invoice = i.number WHERE o.order_number = '"
          .. order.number .. "'")[1]
        return row.amounts, row.tax, row.of
      end
      assert.is_nil((credited()))
      order.payment_id = first
      refund_hook(order, "rfnd_SpecDouble002", 10000)
      server.eventually("refunded in part", function() return axes(order):find "partially_refunded" end)
      assert.equal("10000", (credited()))
      refund_hook(order, "rfnd_SpecDouble003", 24900)
      server.eventually("refunded", function() return axes(order):find "/refunded" end)
      local amounts, tax, of = credited()
      assert.same({ "10000 24900", of }, { amounts, tax })
    end)

    it("have no gaps, whatever is undone", function()
      local calls = {}
      for i = 1, 12 do
        local order = paid()
        admin(order, "process")
        calls[i] = admin_call(order, "ship", SHIP)
      end
      -- Every other transaction fails behind its number, at the commit.
      s:exec [[CREATE SEQUENCE tries;
        CREATE FUNCTION refuse_some() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN IF nextval(''tries'') % 2 = 0 THEN RAISE ''lost''; END IF; RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON invoices DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION refuse_some()]]
      local failed = 0
      for _, answer in ipairs(s:parallel(calls)) do
        if answer.status ~= 200 then failed = failed + 1 end
      end
      s:exec "DROP TRIGGER refuse ON invoices"
      for _, answer in ipairs(s:parallel(calls)) do assert.truthy(answer.status == 200 or answer.status == 409) end
      assert.equal(6, failed)
      local row = s:sql "SELECT count(*) AS n, max(right(number, 6))::int AS last FROM invoices"[1]
      assert.equal(row.n, row.last)
      assert.equal(row.n, s:sql("SELECT count(*) AS n FROM orders WHERE fulfilment_status IN ('shipped', 'delivered',"
        .. " 'returned')")[1].n)
    end)

    it("include mails, enqueued with its moves and never without", function()
      local order = shipped()
      local moves = {}
      for i, job in ipairs(jobs_of("order.mail", order)) do moves[i] = job.args.move end
      assert.same({ "confirm", "ship" }, moves)
      server.eventually("both sent", function()
        return s:log():find("Your order " .. order.number .. " is on its way", 1, true)
      end)
      assert.truthy(s:logged("Its tracking number is DL42"))
      refused(admin(order, "ship", SHIP), "shipped", "shipped")
      assert.equal(2, #jobs_of("order.mail", order))
      local given_up = place()
      cancel(given_up)
      server.eventually("told of it", function()
        return s:log():find("Your order " .. given_up.number .. " is cancelled", 1, true)
      end)
    end)
  end)

  describe("of who signs in", function()
    local ASHA, DIYA = "0b2f6a39-9a2e-4c1e-9a55-6ad0fd1b7a01", "7c1e4c80-51f5-4f4b-8a61-3f2b0f5b9d02"
    local token = shop.bearer
    local function as(authorization) return { headers = { Authorization = authorization } } end
    local function order_as(authorization)
      local call = shop.order_call { [MUG] = 1 }
      call[3].headers.Authorization = authorization
      return s:request(call[1], call[2], call[3])
    end

    it("is listed page by page, and nobody else's", function()
      local asha, diya = token(ASHA), token(DIYA, { email = "diya@example.in" })
      local numbers = {}
      for i = 3, 1, -1 do numbers[i] = order_as(asha).json.number end
      local hers = order_as(diya).json.number
      local first = s:get("/api/orders?limit=2", as(asha)).json
      assert.same({ numbers[1], numbers[2] }, { first.items[1].number, first.items[2].number })
      assert.is_nil(first.items[1].id)
      local second = s:get("/api/orders?limit=2&cursor=" .. first.next_cursor, as(asha)).json
      assert.same({ 1, numbers[3] }, { #second.items, second.items[1].number })
      assert.equal(hers, s:get("/api/orders/" .. hers, as(diya)).json.number)
      assert.equal(404, s:get("/api/orders/" .. hers, as(asha)).status)
      assert.equal(404, s:post("/api/orders/" .. hers .. "/cancel", as(asha)).status)
      assert.equal("cancelled", s:post("/api/orders/" .. hers .. "/cancel", as(diya)).json.status)
    end)

    it("is paid by its owner, without the order's token", function()
      local asha = token(ASHA)
      local order = order_as(asha).json
      s:exec("UPDATE orders SET razorpay_order_id = 'order_SpecSignedIn01' WHERE order_number = '"
        .. order.number .. "'")
      local function open(authorization)
        return s:post("/api/orders/" .. order.number .. "/payment", as(authorization))
      end
      assert.equal("order_SpecSignedIn01", open(asha).json.razorpay_order_id)
      assert.equal("order_SpecSignedIn01", open("Order " .. order.access_token).json.razorpay_order_id)
      assert.equal(404, open(token(DIYA, { email = "diya@example.in" })).status)
      assert.equal(404, open().status)
    end)

    it("is not with a token that is not valid", function()
      local bad = {
        token(ASHA, nil, "another secret"), token(ASHA, { exp = os.time() - 60 }), token(ASHA, { role = "anon" }),
        token("", nil), token(ASHA, { aud = "other" }), token(ASHA, nil, nil, '{"alg":"none"}'), "Bearer a.b.c",
        token(ASHA):sub(1, -2), "Bearer nonsense",
      }
      for i, authorization in ipairs(bad) do
        assert.equal(401, s:get("/api/orders", as(authorization)).status, "token " .. i)
        assert.equal(401, order_as(authorization).status, "token " .. i)
      end
      assert.equal(401, s:get("/api/orders").status)
    end)

    it("takes its address from who had it before", function()
      local again = token("5d3e8f12-0c57-4f0e-b7d9-2b6a6f1c3e03", { email = "ASHA@example.in" })
      assert.equal(201, order_as(again).status)
      assert.equal(1, #s:get("/api/orders", as(again)).json.items)
    end)
  end)

  it("is found by the shop's people, by status", function()
    local order = place()
    local page = s:get("/api/admin/orders?status=pending&limit=1", { headers = ADMIN }).json
    assert.equal(order.number, page.items[1].number)
    assert.is_string(page.next_cursor)
    assert.equal(422, s:get("/api/admin/orders?status=lost", { headers = ADMIN }).status)
  end)
end)
