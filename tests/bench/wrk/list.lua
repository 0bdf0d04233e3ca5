local id = 0
function request() id = (id + 7) % 900; return wrk.format("GET", "/list?after=" .. id) end
