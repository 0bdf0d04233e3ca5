---@meta chowk.task
-- luacheck: ignore 212

---@class chowk.task
local task = {}

---Yields.
---@param duration number|string seconds, or "200ms"
function task.sleep(duration) end

---An activity of its own, without a deadline; errors are logged. Does not yield. Not while loading.
---@param fn function
function task.spawn(fn, ...) end

---Runs functions at the same time. Yields. Raises the first error, after the others were cancelled and have ended.
---@param fns (fun(): any)[]
---@return any[] results the first result of each, in order
function task.all(fns) end

return task
