-- Appended to every script. Where it has each(n), these are the requests, in turn: made before the run, since a client
-- that makes them shares the cores with the server it measures.
if each then
  local requests, n = {}, 0
  function init()
    for i = 1, n_requests or 1000 do requests[i] = each(i) end
  end
  function request()
    n = n % #requests + 1
    return requests[n]
  end
end

-- One machine-readable line at the end.
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), e.status, e.connect + e.read + e.write + e.timeout))
end
