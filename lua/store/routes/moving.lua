--- Handlers that move an order: what a machine refuses is a problem that says from where to where.
local app = require "chowk.app"

--- @param fn function(req, …)  @return a handler that answers illegal_transition with 409
return function(fn)
  return function(...)
    local results = { pcall(fn, ...) }
    if results[1] then return unpack(results, 2) end
    local err = results[2]
    if type(err) == "table" and err.code == "illegal_transition" and err.from then
      app.fail(409, "illegal_transition", err.message, { machine = err.machine, from = err.from, to = err.to })
    end
    error(err, 0)
  end
end
