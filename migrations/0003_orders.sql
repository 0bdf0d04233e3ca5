-- Orders. Two independent axes, fulfilment (status) and money (payment_status), each moved only by
-- compare-and-set together with a row in order_events.

CREATE TYPE order_status AS ENUM
  ('pending', 'confirmed', 'processing', 'shipped', 'delivered', 'cancelled', 'returned', 'expired');
CREATE TYPE payment_status AS ENUM
  ('unpaid', 'authorized', 'paid', 'failed', 'partially_refunded', 'refunded');

CREATE TABLE orders (
  id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  order_number      text NOT NULL UNIQUE,
  user_id           uuid REFERENCES users ON DELETE SET NULL,   -- a closed account must not take the books with it
  email             text NOT NULL,
  access_token_hash bytea,                                      -- SHA-256 of a guest's token; the token is not stored
  status            order_status NOT NULL DEFAULT 'pending',
  payment_status    payment_status NOT NULL DEFAULT 'unpaid',
  currency          char(3) NOT NULL DEFAULT 'INR',
  subtotal_paise    bigint NOT NULL,
  discount_paise    bigint NOT NULL DEFAULT 0,
  shipping_paise    bigint NOT NULL DEFAULT 0,
  tax_paise         bigint NOT NULL DEFAULT 0,                  -- inside the amounts above, not added to them
  total_paise       bigint NOT NULL CHECK (total_paise >= 0),
  refunded_paise    bigint NOT NULL DEFAULT 0,
  coupon_code       text,
  shipping_address  jsonb NOT NULL,
  billing_address   jsonb,
  place_of_supply   char(2),                                    -- GST state code of the delivery address
  razorpay_order_id text UNIQUE,
  version           int NOT NULL DEFAULT 0,
  expires_at        timestamptz,
  created_at        timestamptz NOT NULL DEFAULT now(),
  updated_at        timestamptz NOT NULL DEFAULT now(),
  CHECK (total_paise = subtotal_paise - discount_paise + shipping_paise),
  CHECK (refunded_paise BETWEEN 0 AND total_paise)
);
CREATE INDEX orders_user_idx    ON orders (user_id, created_at DESC, id DESC);
CREATE INDEX orders_status_idx  ON orders (status, created_at DESC);
CREATE INDEX orders_payment_idx ON orders (payment_status, created_at DESC);
CREATE INDEX orders_created_idx ON orders (created_at DESC);
CREATE INDEX orders_email_idx   ON orders (lower(email), created_at DESC);
CREATE INDEX orders_expiry_idx  ON orders (expires_at) WHERE status = 'pending' AND payment_status IN ('unpaid', 'failed');

-- A line is a snapshot: what was bought, at the price and tax of that moment. The catalogue may change or go.
CREATE TABLE order_items (
  id                  bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  order_id            uuid NOT NULL REFERENCES orders ON DELETE CASCADE,
  product_id          bigint REFERENCES products ON DELETE SET NULL,
  sku                 text NOT NULL,
  name                text NOT NULL,
  variant             jsonb NOT NULL DEFAULT '{}',
  design              jsonb,
  image_path          text,
  hsn                 text,
  unit_price_paise    bigint NOT NULL,
  quantity            int NOT NULL CHECK (quantity > 0),
  discount_paise      bigint NOT NULL DEFAULT 0,
  gst_rate_bp         int NOT NULL,
  taxable_paise       bigint NOT NULL,
  cgst_paise          bigint NOT NULL DEFAULT 0,
  sgst_paise          bigint NOT NULL DEFAULT 0,
  igst_paise          bigint NOT NULL DEFAULT 0,
  refunded_qty        int NOT NULL DEFAULT 0,
  fulfillment_partner text,
  CHECK (refunded_qty BETWEEN 0 AND quantity),
  CHECK (igst_paise = 0 OR (cgst_paise = 0 AND sgst_paise = 0))   -- inside one state or between two, never both
);
CREATE INDEX order_items_order_idx   ON order_items (order_id);
CREATE INDEX order_items_product_idx ON order_items (product_id);
CREATE INDEX order_items_partner_idx ON order_items (fulfillment_partner);

CREATE TABLE order_events (
  id          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  order_id    uuid NOT NULL REFERENCES orders ON DELETE CASCADE,
  type        text NOT NULL,
  from_status text,
  to_status   text,
  actor       text NOT NULL,   -- "customer", "razorpay", "system", an admin's name
  data        jsonb NOT NULL DEFAULT '{}',
  at          timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX order_events_order_idx ON order_events (order_id, id);

CREATE TABLE coupons (
  code               text PRIMARY KEY CHECK (code = upper(code)),
  kind               text NOT NULL CHECK (kind IN ('percent', 'flat', 'free_shipping')),
  value              bigint NOT NULL CHECK (value >= 0),   -- percent: basis points; flat: paise
  max_discount_paise bigint,
  min_subtotal_paise bigint NOT NULL DEFAULT 0,
  starts_at          timestamptz,
  ends_at            timestamptz,
  usage_limit        int,
  per_user_limit     int NOT NULL DEFAULT 1,
  used               int NOT NULL DEFAULT 0,
  is_active          boolean NOT NULL DEFAULT true,
  CHECK (usage_limit IS NULL OR used <= usage_limit)
);

CREATE TABLE coupon_redemptions (
  order_id uuid PRIMARY KEY REFERENCES orders ON DELETE CASCADE,   -- one coupon per order
  code     text NOT NULL REFERENCES coupons ON DELETE CASCADE,
  user_id  uuid REFERENCES users ON DELETE SET NULL,
  email    text NOT NULL
);
CREATE INDEX coupon_redemptions_email_idx ON coupon_redemptions (code, lower(email));
CREATE INDEX coupon_redemptions_user_idx  ON coupon_redemptions (user_id);

-- Consecutive numbers per (name, period), e.g. ('order', '2026-27'): a new financial year starts again at 1.
CREATE TABLE sequences (
  name   text NOT NULL,
  period text NOT NULL,
  value  bigint NOT NULL,   -- the last number given out
  PRIMARY KEY (name, period)
) WITH (fillfactor = 50);   -- a handful of rows, updated all day: keep the versions on one page

-- Takes n consecutive numbers and returns the LAST of them: the block is (result - n + 1) .. result.
-- The row stays locked until the caller's transaction ends, so callers queue: inside a business transaction take the
-- number late; for thousands a second lease a block in a transaction of its own and hand it out from memory.
CREATE FUNCTION get_next_order_sequence(name text, period text, n int DEFAULT 1) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE last bigint;
BEGIN
  IF n IS NULL OR n < 1 THEN
    RAISE EXCEPTION 'get_next_order_sequence: n must be at least 1, got %', n USING ERRCODE = '22023';
  END IF;
  INSERT INTO sequences AS s (name, period, value) VALUES ($1, $2, $3)
  ON CONFLICT ON CONSTRAINT sequences_pkey DO UPDATE SET value = s.value + $3
  RETURNING s.value INTO last;
  RETURN last;
END
$$;
