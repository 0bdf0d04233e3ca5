-- What every contestant works on: 1000 products, a row-counter and leased order numbers, 5000 payments to verify.
CREATE TABLE products (id int PRIMARY KEY, slug text NOT NULL UNIQUE, name text NOT NULL, description text NOT NULL,
  price_paise bigint NOT NULL, is_active boolean NOT NULL DEFAULT true, created_at timestamptz NOT NULL DEFAULT now());
INSERT INTO products SELECT g, 'product-' || g, 'Product ' || g, repeat('A fine cotton tee with a good print. ', 5), 19900 + g * 100
  FROM generate_series(1, 1000) g;
CREATE TABLE sequences (name text PRIMARY KEY, value bigint NOT NULL);
INSERT INTO sequences VALUES ('order', 0);
CREATE FUNCTION next_block(n int) RETURNS bigint LANGUAGE sql AS
  $$ UPDATE sequences SET value = value + n WHERE name = 'order' RETURNING value $$;
CREATE TABLE orders (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, number text NOT NULL UNIQUE, email text NOT NULL,
  total_paise bigint NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE order_items (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, order_id bigint NOT NULL REFERENCES orders,
  product_id int NOT NULL REFERENCES products, quantity int NOT NULL, unit_price_paise bigint NOT NULL);
CREATE INDEX order_items_order_idx ON order_items (order_id);
CREATE TABLE payments (razorpay_order_id text PRIMARY KEY, status text NOT NULL DEFAULT 'created',
  razorpay_payment_id text, verified int NOT NULL DEFAULT 0);
INSERT INTO payments SELECT 'order_' || lpad(g::text, 14, '0') FROM generate_series(1, 5000) g;
ANALYZE;
