local id = 0
function request() id = id % 1000 + 1; return wrk.format("GET", "/l1/" .. id) end
