-- What every contestant works on: 1000 products, a row-counter and leased order numbers, 5000 payments to verify.
CREATE TABLE products (id int PRIMARY KEY, slug text NOT NULL UNIQUE, name text NOT NULL, description text NOT NULL,
  price_paise bigint NOT NULL, is_active boolean NOT NULL DEFAULT true, created_at timestamptz NOT NULL DEFAULT now());
INSERT INTO products SELECT g, 'product-' || g, 'Product ' || g, repeat('A fine cotton tee with a good print. ', 5), 19900 + g * 100
  FROM generate_series(1, 1000) g;
CREATE TABLE sequences (name text NOT NULL, period text NOT NULL, value bigint NOT NULL, PRIMARY KEY (name, period));
INSERT INTO sequences VALUES ('order', 'row', 0);
-- What the peers take a number from, in their transaction; chowk leases blocks of its own period.
CREATE FUNCTION next_block(n int) RETURNS bigint LANGUAGE sql AS
  $$ UPDATE sequences SET value = value + n WHERE name = 'order' AND period = 'row' RETURNING value $$;
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
CREATE TABLE orders (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, number text NOT NULL UNIQUE, email text NOT NULL,
  total_paise bigint NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE order_items (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, order_id bigint NOT NULL REFERENCES orders,
  product_id int NOT NULL REFERENCES products, quantity int NOT NULL, unit_price_paise bigint NOT NULL);
CREATE INDEX order_items_order_idx ON order_items (order_id);
-- A shop with a past: on empty tables every connection would keep plans that scan them whole.
INSERT INTO orders (number, email, total_paise) SELECT 'OLD-' || g, 'a@example.com', 50000 FROM generate_series(1, 20000) g;
INSERT INTO order_items (order_id, product_id, quantity, unit_price_paise)
  SELECT o.id, 1 + o.id % 1000, 1, 50000 FROM orders o, generate_series(1, 3);
CREATE TABLE payments (razorpay_order_id text PRIMARY KEY, status text NOT NULL DEFAULT 'created',
  razorpay_payment_id text, verified int NOT NULL DEFAULT 0);
INSERT INTO payments SELECT 'order_' || lpad(g::text, 14, '0') FROM generate_series(1, 5000) g;
-- What chowk keeps of idempotent requests (its function is the shop's migration), and what a peer's user would.
CREATE TABLE idempotency_keys (scope text NOT NULL, key text NOT NULL, fingerprint bytea NOT NULL, method text NOT NULL,
  path text NOT NULL, locked_until timestamptz, lock_token uuid, created_at timestamptz NOT NULL DEFAULT now(),
  last_run_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz NOT NULL DEFAULT now() + interval '24 hours',
  answer bytea, steps bytea, PRIMARY KEY (scope, key));
CREATE INDEX idempotency_keys_expiry_idx ON idempotency_keys (expires_at);
CREATE TABLE idempotent_answers (key text PRIMARY KEY, fingerprint text NOT NULL, body jsonb,
  expires_at timestamptz NOT NULL DEFAULT now() + interval '24 hours');
CREATE INDEX idempotent_answers_expiry_idx ON idempotent_answers (expires_at);
ANALYZE;
