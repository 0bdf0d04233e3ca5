---@meta chowk.machine
-- luacheck: ignore 212 241

local machine = {}

---@class chowk.machine.definition
---@field name string events are called "name.move"
---@field table string
---@field column string the state
---@field key? string default "id"
---@field events { table: string, key: string }
---@field states string[]
---@field initial string
---@field moves table<string, { from: string[], to: string, jobs?: string[] }>

---Declares a state machine over a column. While loading only.
---@param def chowk.machine.definition
---@return chowk.machine
function machine.define(def) end

---@class chowk.machine
local Machine = {}

---Moves one row by compare-and-set, with its event row and its jobs, in the caller's transaction. Raises
---illegal_transition with `machine`, `from` and `to`. Yields.
---@param tx chowk.pg.tx
---@param id any
---@param name string the move
---@param options { actor: string, data?: table, set?: table<string, any> }
---@return string|nil was the state it was in; nil: no such row
function Machine:move(tx, id, name, options) end

---The move of a row that this transaction has locked, as statements for `tx:all`, `tx:defer` and `tx:commit`. Raises
---illegal_transition at once; if the row is in another state after all, the statements fail. Does not yield.
---@param state string what the locked row's column says
---@param id any
---@param name string the move
---@param options { actor: string, data?: table, set?: table<string, any> }
---@return chowk.pg.statement[]
function Machine:statements(state, id, name, options) end

---Raises illegal_transition unless this move may begin in that state.
---@param state string
---@param name string
function Machine:expect(state, name) end

---@param state string
---@param name string
---@return boolean
function Machine:can(state, name) end

---@param name string
---@return string state where this move leads
function Machine:to(name) end

---@param state string
---@return string[] moves that may begin there
function Machine:from(state) end

return machine
