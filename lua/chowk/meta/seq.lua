---@meta chowk.seq
-- luacheck: ignore 212 (signatures only)

---Unique numbers, leased in blocks and shared by all workers. `next` and `value` wait only when none is leased, may be
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

---A number turned out to be taken, as after a restored backup: the next ones come after it. Waits; not inside `pg.tx`.
---@param name string
---@param number string best the highest that is known
---@return boolean # false: none of the running period
function seq.skip_past(name, number) end

return seq
