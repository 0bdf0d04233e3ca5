-- Who buys: accounts, carts, wishlists, ratings. Guests have none of these rows; their orders carry an e-mail.

CREATE TABLE users (
  id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),   -- the `sub` of the sign-in provider's token
  email      text NOT NULL,
  name       text,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_email_idx ON users (lower(email));

CREATE TABLE carts (
  id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  user_id    uuid UNIQUE REFERENCES users ON DELETE CASCADE,
  updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX carts_updated_idx ON carts (updated_at);   -- the clean-up of abandoned carts

CREATE TABLE cart_items (
  cart_id   uuid NOT NULL REFERENCES carts ON DELETE CASCADE,
  sku       text NOT NULL REFERENCES inventory (sku) ON DELETE CASCADE,   -- no longer sold: gone from carts
  design_id uuid,
  quantity  int NOT NULL CHECK (quantity BETWEEN 1 AND 99)
);
-- The same SKU with another design is another line; NULLs would never collide by themselves.
CREATE UNIQUE INDEX cart_items_line_idx
  ON cart_items (cart_id, sku, COALESCE(design_id, '00000000-0000-0000-0000-000000000000'::uuid));
CREATE INDEX cart_items_sku_idx ON cart_items (sku);

CREATE TABLE wishlists (
  user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
  product_id bigint NOT NULL REFERENCES products ON DELETE CASCADE,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, product_id)
);
CREATE INDEX wishlists_product_idx ON wishlists (product_id);

-- A closed account leaves its stars behind, without a name: products.rating_sum still counts them.
CREATE TABLE ratings (
  id         bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  user_id    uuid REFERENCES users ON DELETE SET NULL,
  product_id bigint NOT NULL REFERENCES products ON DELETE CASCADE,
  stars      smallint NOT NULL CHECK (stars BETWEEN 1 AND 5),
  review     text,
  verified   boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (user_id, product_id)
);
CREATE INDEX ratings_product_idx ON ratings (product_id, created_at DESC, id DESC);
