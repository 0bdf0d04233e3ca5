return {
  workers = 1,
  environment = "development", -- the development secrets are what the runner signs with
  log = { access = false, level = "warn" },
  app = { root = ".", main = "app" },
}
