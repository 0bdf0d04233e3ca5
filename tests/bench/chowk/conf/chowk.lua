return {
  workers = 1,
  jobs = { workers = 0 },
  environment = "development", -- the development secrets are what the runner signs with
  log = { access = false, level = "warn" },
  http = { max_connections = 20000 },
  limit = { store = env("BENCH_LIMIT_STORE", "memory"), classes = { bench = { limit = 1000000000, window = "15m" } } },
  seq = { formats = { order = "PC{fy}-{n:9}" } },
  app = { root = ".", main = "app" },
}
