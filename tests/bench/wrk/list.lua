function each(n) return wrk.format("GET", "/list?after=" .. n * 7 % 900) end
