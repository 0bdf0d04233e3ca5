function each(id) return wrk.format("GET", "/products/" .. id) end
