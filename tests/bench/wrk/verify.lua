-- Bodies with right signatures, one a line, made by the runner.
n_requests = 5000
local lines = io.lines(os.getenv "BENCH_BODIES")
function each()
  local body = lines()
  return body and wrk.format("POST", "/verify", { ["Content-Type"] = "application/json" }, body)
end
