function each() return wrk.format("GET", "/json") end
