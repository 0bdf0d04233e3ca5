---@meta chowk.seq
-- luacheck: ignore 212 (signatures only)

---Unique numbers, leased in blocks and shared by all workers. Both functions wait only when none is leased, may be
---called inside `pg.tx`, and raise `unavailable`, `queue_full`, `deadline` or `pg_error`.
---@class chowk.seq
local seq = {}

---The next number in its format of `seq.formats`: `"PC2627-000123"`.
---@param name string
---@return string
function seq.next(name) end

---The next number itself.
---@param name string
---@return integer
function seq.value(name) end

return seq
