function each(id) return wrk.format("GET", "/cached/" .. id) end
