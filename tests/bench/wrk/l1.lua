function each(id) return wrk.format("GET", "/l1/" .. id) end
