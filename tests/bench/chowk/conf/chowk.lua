return {
  workers = 1,
  jobs = { workers = 0 },
  environment = "development", -- the development secrets are what the runner signs with
  log = { access = false, level = "warn" },
  seq = { formats = { order = "PC{fy}-{n:9}" } },
  app = { root = ".", main = "app" },
}
