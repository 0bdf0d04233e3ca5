-- The configuration of the shop. `chowk config` prints every key with its effective value, `chowk config --keys` all
-- keys with unit and meaning; what is not written here has its default. An unknown key stops the start, with its line.
--
--   env("NAME", default)   reads the environment        file("/run/secrets/x")   reads a secret from a file
--
-- DATABASE_URL, REDIS_URL, PORT and RAZORPAY_* override what is written here. Without DATABASE_URL or REDIS_URL,
-- `chowk dev` starts private servers below var/; `chowk serve` never does.
return {
  listen = "127.0.0.1:8080",
  -- workers = 4,            -- processes; default: one per core (2 in development)

  app = {
    root = "lua",            -- require "store.catalogue" is lua/store/catalogue.lua
    main = "store",          -- the module that returns the routes: lua/store/init.lua
    migrations = "migrations",
  },

  reload = {                 -- of the Lua files, in the running server: chowk reload, HUP, a saved file in development
    -- timeout = "10s",          -- for checking new code, app.self_test included
    -- stream_drain = "10m",     -- how long streams may go on in old code; requests have `drain`
    -- max_generations = 4,      -- versions of the code alive at once, per worker
  },

  pg = {
    -- url = file("/run/secrets/database_url"),
    -- pool_size = 20,       -- of all workers together: Supabase and PgBouncer count connections per machine
    -- replica_urls = { file("/run/secrets/replica_url") },   -- where pg.replica reads; never money
    -- pool_mode = "transaction",   -- behind PgBouncer or Supavisor on port 6543
  },

  redis = {
    -- url = "redis://127.0.0.1:6379/0",
    -- url = "rediss://default:" .. env("REDIS_TOKEN") .. "@cache.example.com:6379",   -- TLS, the name is verified
    -- url = "redis+sentinel://:password@10.0.0.1,10.0.0.2,10.0.0.3/shop/0",           -- asks who is the primary
    -- ca = "/etc/chowk/redis-ca.pem",   -- for rediss:// with certificates of your own
  },

  http = {
    -- trusted_proxies = { "1" },   -- behind one balancer: X-Forwarded-For ends with the client. Or networks:
                                    -- { "10.0.0.0/8", "loopback" }
    -- proxy_protocol = true,       -- that balancer speaks the PROXY protocol (TCP mode)
  },

  limit = {
    -- store = "redis",       -- count in Redis when several machines serve; "memory" is this machine
    classes = {
      public = { limit = 100, window = "15m", key = "ip" },
      -- What proves who one is: sign-in, admin token. Whoever fails a route's `auth` is counted by address alone, so
      -- that nobody locks another one's account.
      auth = {
        { limit = 10, window = "15m", key = "ip" },
        { limit = 10, window = "15m", key = { "user", "body.email" } },
      },
      admin = { limit = 1000, window = "15m", key = "ip" },   -- a warehouse moves orders all day, from one address
      -- A mobile network puts thousands behind one address, so a guest's payments are counted by order, and orders by
      -- the buyer; what counts by address there is far higher.
      payments = {
        { limit = 5, window = "15m", key = { "user", "body.razorpay_order_id" } },
        { limit = 300, window = "15m", key = "ip" },
      },
      order_payments = { limit = 20, window = "15m", key = "params.number" },
      orders = {
        { limit = 20, window = "15m", key = { "user", "body.email" } },
        { limit = 300, window = "15m", key = "ip" },
      },
      forged_webhooks = { limit = 100, window = "15m", key = "ip" },   -- wrong signatures; no others
    },
  },

  cache = {
    -- size = "64MiB",       -- shared by the workers of a machine
    -- namespace = "chowk",  -- of its keys in Redis; the same on all machines of this shop, another for another shop
  },

  http_client = {            -- calls to other services: chowk.http
    -- timeout = "5s",
    -- allow_private = { "10.1.0.0/16" },   -- private addresses that may be called; in development, this machine
    -- ca = "/etc/chowk/ca.pem",            -- for services with certificates of your own
  },

  mail = {                   -- chowk.mail; without a url, development logs and keeps what is sent
    -- url = "smtp://shop:" .. file("/run/secrets/mail") .. "@smtp.example.com:587",   -- percent-encode the password
    -- from = "Chandni Prints <orders@example.com>",
  },

  seq = {
    formats = { order = "PC{fy}-{n:6}" },   -- PC2627-000123: at most 16 characters, as a GST invoice allows
    gapless = { invoice = "INV{fy}/{n:6}", credit_note = "CN{fy}/{n:6}" },   -- counted in the transaction: no gaps
  },

  jobs = {
    -- workers = 1,          -- processes beside the workers that run background jobs; 0: none on this machine
    -- concurrency = 10,     -- jobs at a time in each
    -- queues = { "default" },   -- only these here; default: all
    -- lease = "30s",        -- after so much silence another process takes a job over
  },

  razorpay = {
    sandbox = "examples/razorpay-sandbox",   -- `chowk dev` runs it beside the shop and takes payments there, until
                                             -- RAZORPAY_KEY_ID or RAZORPAY_URL says otherwise
  },

  payments = {
    -- confirm = "fetch",    -- production: paid when Razorpay says captured. "signature" (development): when the
                             -- checkout signature is valid
  },

  admin = {
    -- listen = "127.0.0.1:9180",   -- /metrics, /status, /healthz, /readyz; read-only. Or "unix:/path", or "off"
  },

  log = {                    -- JSON lines on standard error; in development, text
    -- file = "/var/log/chowk/chowk.log",           -- move it away and send the master USR1: new lines go to a new file
    -- access_file = "/var/log/chowk/access.log",   -- the lines of requests apart; access = false: none
    -- level = "info",
    -- buffer = "1MiB",      -- what is kept while the disk is slow: no request waits for it; beyond, lines are dropped
                             -- and counted (log_lines_dropped_total in /metrics, and a line that says how many)
    -- Masked, unless redact = false: values of fields named like password, secret, token, authorization, cookie,
    -- signature, api key, otp, pin, cvv, email, phone, mobile, contact, vpa, … also inside tables; in any text e-mail
    -- addresses, phone and card numbers; the values in PostgreSQL's details. Query strings and paths of requests are
    -- never logged in JSON. A name or a postal address in a message of your own is not recognised.
    -- redact = true,
    -- ip = "network",       -- clients' addresses: /24 or /48 only; "full" keeps them whole
  },

  -- The shop's own settings, read in lua/store/settings.lua. "" means: not set.
  settings = {
    shop = {
      name = "Chandni Prints",
      state = "27",          -- GST state code the goods are sold from: Maharashtra
    },
    orders = {
      payment_minutes = 30,  -- how long an unpaid order keeps its stock
      authorized_days = 5,   -- … and one whose payment is authorized but not captured: by then Razorpay has refunded it
      token_secret = env("ORDER_TOKEN_SECRET", ""),   -- derives guests' access tokens; else razorpay.key_secret does
    },
    shipping = {
      flat_paise = 0,        -- what delivery costs …
      free_above_paise = 0,  -- … below this subtotal
    },
    razorpay_account = env("RAZORPAY_ACCOUNT_ID", ""),   -- when set, webhooks of other accounts are parked
    admin_token = env("ADMIN_TOKEN", ""),   -- opens /api/admin/…; unset: those routes do not exist
    auth = {
      jwt_secret = env("SUPABASE_JWT_SECRET", ""),   -- the project's: customers may sign in; unset: all are guests
    },
  },
}
