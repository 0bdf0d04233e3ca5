-- The catalogue: what is sold, what it looks like, and how much of it there is.
-- Money is integer paise everywhere; tax rates are basis points (500 = 5 %).

-- Trigram matching for the search box ("hood" finds "hoodie"); a trusted extension of the postgresql package.
CREATE EXTENSION IF NOT EXISTS pg_trgm;

CREATE TABLE categories (
  id          int PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  slug        text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
  name        text NOT NULL,
  description text NOT NULL DEFAULT '',
  parent_id   int REFERENCES categories ON DELETE SET NULL,   -- a removed parent leaves its children at the top
  is_active   boolean NOT NULL DEFAULT true,
  sort_order  int NOT NULL DEFAULT 0
);
CREATE INDEX categories_active_idx      ON categories (sort_order, id) WHERE is_active;
CREATE INDEX categories_slug_active_idx ON categories (slug, is_active);
CREATE INDEX categories_parent_idx      ON categories (parent_id);

CREATE TABLE products (
  id                  bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  category_id         int NOT NULL REFERENCES categories,   -- a category that still has products cannot be deleted
  slug                text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
  name                text NOT NULL,
  description         text NOT NULL DEFAULT '',
  price_paise         bigint NOT NULL CHECK (price_paise >= 0),   -- tax included, as shown to the customer
  mrp_paise           bigint CHECK (mrp_paise >= price_paise),
  hsn                 text CHECK (hsn ~ '^[0-9]{4}([0-9]{2}([0-9]{2})?)?$'),
  gst_rate_bp         int NOT NULL DEFAULT 500 CHECK (gst_rate_bp BETWEEN 0 AND 10000),
  fulfillment_partner text,
  is_active           boolean NOT NULL DEFAULT true,
  -- Kept by whoever writes a rating, in the same transaction, so that no list has to aggregate.
  rating_sum          bigint NOT NULL DEFAULT 0,
  rating_count        int NOT NULL DEFAULT 0,
  rating_hundredths   int NOT NULL GENERATED ALWAYS AS   -- 437 = 4.37 stars; a column, so that lists can page by it
                        (CASE WHEN rating_count = 0 THEN 0 ELSE round(rating_sum * 100.0 / rating_count)::int END) STORED,
  search              tsvector GENERATED ALWAYS AS (to_tsvector('english', name || ' ' || description)) STORED,
  created_at          timestamptz NOT NULL DEFAULT now(),
  updated_at          timestamptz NOT NULL DEFAULT now()
);
-- One index per list the shop pages through (lua/store/catalogue.lua), each ending in id for the keyset.
CREATE INDEX products_newest_idx          ON products (created_at DESC, id DESC) WHERE is_active;
CREATE INDEX products_price_idx           ON products (price_paise, id) WHERE is_active;
CREATE INDEX products_rating_idx          ON products (rating_hundredths DESC, id DESC) WHERE is_active;
CREATE INDEX products_category_idx        ON products (category_id, created_at DESC, id DESC) WHERE is_active;
CREATE INDEX products_category_price_idx  ON products (category_id, price_paise, id) WHERE is_active;
CREATE INDEX products_category_rating_idx ON products (category_id, rating_hundredths DESC, id DESC) WHERE is_active;
CREATE INDEX products_partner_idx         ON products (fulfillment_partner);
CREATE INDEX products_search_idx          ON products USING gin (search);
CREATE INDEX products_name_trgm_idx       ON products USING gin (name gin_trgm_ops);

CREATE TABLE product_images (
  id           bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  product_id   bigint NOT NULL REFERENCES products ON DELETE CASCADE,
  storage_path text NOT NULL,   -- bucket and path, as in /storage/v1/object/public/<storage_path>
  alt          text NOT NULL DEFAULT '',
  position     int NOT NULL DEFAULT 0,
  width        int,
  height       int,
  etag         text,
  UNIQUE (product_id, position)
);

-- One row per SKU: the variant a customer picks, and its stock. Printed on demand means track = false:
-- such rows are never locked or written by an order.
CREATE TABLE inventory (
  sku         text PRIMARY KEY CHECK (sku ~ '^[A-Z0-9]+(-[A-Z0-9]+)*$'),
  product_id  bigint NOT NULL REFERENCES products ON DELETE CASCADE,
  options     jsonb NOT NULL DEFAULT '{}',              -- {"size":"M","colour":"Black"}
  extra_paise bigint NOT NULL DEFAULT 0 CHECK (extra_paise >= 0),   -- on top of the product's price
  position    int NOT NULL DEFAULT 0,
  track       boolean NOT NULL DEFAULT false,
  on_hand     int NOT NULL DEFAULT 0 CHECK (on_hand >= 0),
  reserved    int NOT NULL DEFAULT 0 CHECK (reserved >= 0),
  CHECK (NOT track OR reserved <= on_hand)              -- overselling is impossible, whatever the code says
) WITH (fillfactor = 80);                               -- reservations update rows in place
CREATE INDEX inventory_product_idx ON inventory (product_id, position);
