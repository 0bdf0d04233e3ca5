-- What the shop's specs share: ordering, signing as Razorpay signs, webhooks, jobs.
local eventually = require("spec.support.server").eventually

local M = {}

M.KEY_SECRET = "spec_key_secret"
M.WEBHOOK_SECRET = "spec_webhook_secret"
M.JWT_SECRET = "spec_jwt_secret"   -- SUPABASE_JWT_SECRET, for specs whose buyers sign in

local serial = 0
local function next_serial()
  serial = serial + 1
  return serial
end

--- Lower-case hex HMAC-SHA256 by openssl: not by the code under test.
function M.hmac(secret, message)
  local file = os.tmpname()
  local f = assert(io.open(file, "wb"))
  f:write(message)
  f:close()
  local pipe = io.popen(("openssl dgst -sha256 -hmac '%s' -r %s"):format(secret, file))
  local hex = pipe:read("*a"):match("^%x+")
  pipe:close()
  os.remove(file)
  return hex
end

function M.key() return ("spec-key-%08d"):format(next_serial()) end
function M.payment_id() return ("pay_Spec%010d"):format(next_serial()) end

--- The body of an order; `items` is {sku = quantity} or a list of {sku, quantity}.
function M.basket(items, more)
  local lines = {}
  if #items > 0 then
    for i, item in ipairs(items) do lines[i] = { sku = item[1], quantity = item[2] } end
  else
    for sku, quantity in pairs(items) do lines[#lines + 1] = { sku = sku, quantity = quantity } end
  end
  local body = {
    items = lines,
    email = "asha@example.in",
    shipping_address = { name = "Asha Rao", line1 = "14 Church Street", city = "Bengaluru", state = "KA",
                         pincode = "560001" },
  }
  for k, v in pairs(more or {}) do body[k] = v end
  return body
end

--- One POST /api/orders as s:parallel takes it.
function M.order_call(items, more, key)
  return { "POST", "/api/orders", { json = M.basket(items, more), headers = { ["Idempotency-Key"] = key or M.key() } } }
end

--- Places an order and returns its answer's body; anything but 201 is an error. Razorpay does not know it yet.
function M.place_unopened(s, items, more, key)
  local call = M.order_call(items, more, key)
  local answer = s:request(call[1], call[2], call[3])
  if answer.status ~= 201 then error("order: " .. answer.status .. " " .. answer.body, 2) end
  return answer.json
end

--- As place_unopened, with the id of Razorpay that POST /api/orders/:number/payment would have stored.
function M.place(s, items, more, key)
  local order = M.place_unopened(s, items, more, key)
  order.razorpay_order_id = ("order_Spec%010d"):format(next_serial())
  s:exec(("UPDATE orders SET razorpay_order_id = '%s' WHERE order_number = '%s' AND razorpay_order_id IS NULL"):format(
    order.razorpay_order_id, order.number))
  return order
end

function M.proof(order, payment_id, secret)
  return {
    razorpay_order_id = order.razorpay_order_id,
    razorpay_payment_id = payment_id,
    razorpay_signature = M.hmac(secret or M.KEY_SECRET, order.razorpay_order_id .. "|" .. payment_id),
  }
end

--- The bytes of a payment webhook, spaced as nobody's encoder would space them.
function M.payment_event(name, order, payment_id, more)
  more = more or {}
  return ('{"entity":"event", "account_id":"%s","event":"%s","contains":["payment"],"payload":{"payment":'
    .. '{"entity":{"id":"%s","entity":"payment","amount":%d,"currency":"%s","status":"%s","order_id":"%s",'
    .. '"method":"upi","vpa":"asha\\u0040upi","notes":[],"fee":%d,"tax":2,"error_code":null}}},'
    .. '"created_at":1767323045}'):format(
    more.account or "acc_Spec", name, payment_id, more.amount or order.total_paise, more.currency or "INR",
    name:match("%.(%w+)$"), order.razorpay_order_id, more.fee or 14)
end

function M.refund_event(name, order, payment_id, refund_id, amount)
  return ('{"entity":"event","account_id":"acc_Spec","event":"refund.%s","contains":["refund","payment"],"payload":{'
    .. '"refund":{"entity":{"id":"%s","entity":"refund","amount":%d,"currency":"INR","payment_id":"%s","notes":[],'
    .. '"acquirer_data":{"arn":null},"status":"%s"}},"payment":{"entity":{"id":"%s","amount":%d,"currency":"INR",'
    .. '"status":"captured","order_id":"%s"}}},"created_at":1767323045}'):format(
    name, refund_id, amount, payment_id, name, payment_id, order.total_paise, order.razorpay_order_id)
end

--- One webhook as s:parallel takes it. event_id: false sends none.
function M.webhook_call(body, event_id, signature)
  if event_id == nil then event_id = ("SpecEvent%05d"):format(next_serial()) end
  return { "POST", "/api/webhooks/razorpay", { body = body, headers = {
    ["Content-Type"] = "application/json",
    ["X-Razorpay-Signature"] = signature or M.hmac(M.WEBHOOK_SECRET, body),
    ["X-Razorpay-Event-Id"] = event_id or nil,
  } } }
end

function M.webhook(s, body, event_id, signature)
  local call = M.webhook_call(body, event_id, signature)
  return s:request(call[1], call[2], call[3])
end

local function output_of(command)
  local pipe = io.popen(command)
  local out = pipe:read "*a"
  pipe:close()
  return out
end

local BASE64URL = " | openssl base64 -A | tr '+/' '-_' | tr -d '='"

--- The Authorization of a user who has signed in. @param more table|nil {aud, role, exp, email}
function M.bearer(sub, more, secret, header)
  more = more or {}
  local claims = ('{"sub":"%s","aud":"%s","role":"%s","exp":%d,"email":"%s"}'):format(sub,
    more.aud or "authenticated", more.role or "authenticated", more.exp or os.time() + 600,
    more.email or "asha@example.in")
  local function base64url(text) return output_of("printf %s '" .. text .. "'" .. BASE64URL) end
  local signed = base64url(header or '{"alg":"HS256","typ":"JWT"}') .. "." .. base64url(claims)
  return "Bearer " .. signed .. "." .. output_of(("printf %%s '%s' | openssl dgst -sha256 -hmac '%s' -binary"):format(
    signed, secret or M.JWT_SECRET) .. BASE64URL)
end

--- Order and payment state as the database has it: "confirmed/paid".
function M.state(s, order)
  local row = s:sql("SELECT status, payment_status FROM orders WHERE order_number = '" .. order.number .. "'")[1]
  return row.status .. "/" .. row.payment_status
end

--- The order's events as text: "order.place payment.capture order.confirm".
function M.events(s, order)
  return s:sql("SELECT string_agg(e.type, ' ' ORDER BY e.id) AS types"
    .. " FROM order_events e JOIN orders o ON o.id = e.order_id WHERE o.order_number = '"
    .. order.number .. "'")[1].types
end

--- What an operator does after changing the catalogue by hand, in SQL.
function M.forget(s)
  local pipe = io.popen(("cd %s && %s cache purge --all 2>&1"):format(s.dir, os.getenv "CHOWK"))
  local out = pipe:read("*a")
  pipe:close()
  if not out:find("^purged") then error(out, 2) end
end

--- Starts the shop with the specs' secrets.
function M.start(server, opts)
  opts = opts or {}
  local env = {
    RAZORPAY_KEY_SECRET = M.KEY_SECRET,
    RAZORPAY_WEBHOOK_SECRET = M.WEBHOOK_SECRET .. ",old_webhook_secret",
  }
  for k, v in pairs(opts.env or {}) do env[k] = v end
  local s = server.start { config = opts.config, env = env, pg = opts.pg, port = opts.port, url = opts.url,
    redis_url = opts.redis_url }
  M.stop_timetables(s)
  return s
end

--- From now on no timetable enqueues anything: a minute that begins in the middle of a spec would run its jobs too.
function M.stop_timetables(s)
  s:exec [[CREATE FUNCTION stand_still() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER stand_still BEFORE INSERT ON cron_runs FOR EACH ROW EXECUTE FUNCTION stand_still()]]
end

--- Enqueues a job as its timetable would.
--- @param args string?  JSON
--- @return string its id
function M.enqueue(s, kind, args)
  return (s:exec(("INSERT INTO jobs (kind, args) VALUES ('%s', '%s') RETURNING id; NOTIFY chowk_jobs, 'default'")
    :format(kind, args or "{}")):match "%d+")
end

--- The same, and waits until the job has ended well.
function M.run(s, kind, args)
  local id = M.enqueue(s, kind, args)
  eventually(kind, function()
    return #s:sql("SELECT 1 FROM jobs WHERE id = " .. id .. " AND state = 'completed'") == 1
  end)
end

return M
