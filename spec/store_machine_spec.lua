-- An order's three axes: every move, every one that is refused, what hangs on them, and many at once.
local server = require "spec.support.server"

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
