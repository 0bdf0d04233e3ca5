-- An order has three axes, each moved by compare-and-set together with its row in order_events (lua/store/machines):
-- the order itself (status), its money (payment_status) and its goods (fulfilment_status). 0003 had the first and the
-- last in one column.
ALTER TABLE orders
  ALTER COLUMN status DROP DEFAULT,
  ADD COLUMN fulfilment_status text NOT NULL DEFAULT 'unfulfilled'
    CHECK (fulfilment_status IN ('unfulfilled', 'processing', 'shipped', 'delivered', 'returned')),
  ADD COLUMN carrier         text,
  ADD COLUMN tracking_number text;

-- These name the old type.
DROP INDEX orders_expiry_idx, orders_status_idx;
ALTER TABLE orders ALTER COLUMN status TYPE text USING status::text;
DROP TYPE order_status;

UPDATE orders SET fulfilment_status = status, status = 'confirmed'
WHERE status IN ('processing', 'shipped', 'delivered', 'returned');

ALTER TABLE orders
  ALTER COLUMN status SET DEFAULT 'pending',
  ADD CHECK (status IN ('pending', 'confirmed', 'cancelled', 'expired')),
  ADD CHECK (fulfilment_status = 'unfulfilled' OR status = 'confirmed'),   -- goods leave for confirmed orders only
  -- What everybody outside calls an order's status: pending, confirmed, processing, shipped, delivered, …
  ADD COLUMN state text NOT NULL GENERATED ALWAYS AS
    (CASE WHEN fulfilment_status = 'unfulfilled' THEN status ELSE fulfilment_status END) STORED;

CREATE INDEX orders_state_idx  ON orders (state, created_at DESC, id DESC);
CREATE INDEX orders_expiry_idx ON orders (expires_at, id)
  WHERE status = 'pending' AND payment_status IN ('unpaid', 'failed', 'authorized');

-- Events are called "axis.move" now.
UPDATE order_events SET type = CASE type
    WHEN 'order_placed' THEN 'order.place' WHEN 'order_expired' THEN 'order.expire'
    WHEN 'payment_paid' THEN 'payment.capture' WHEN 'payment_authorized' THEN 'payment.authorize'
    WHEN 'payment_failed' THEN 'payment.fail' WHEN 'payment_refunded' THEN 'payment.refund'
    WHEN 'payment_partially_refunded' THEN 'payment.refund_part' ELSE 'payment.ignore' END
WHERE type IN ('order_placed', 'order_expired', 'payment_paid', 'payment_authorized', 'payment_failed',
  'payment_refunded', 'payment_partially_refunded', 'transition_ignored');
