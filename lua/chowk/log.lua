-- Structured log: one line per event, with the request's id, route and generation, or the job's. None of these yields,
-- or waits for a disk. Secrets and personal data are masked by name and by look: core/base/redact.h says which.
local core = require "chowk.core.log"
local raise = require "chowk.raise"

local M = {}

local function writer(level)
  return function(message, fields)
    if type(message) ~= "string" then
      raise.misuse("log.%s: the message must be a string, got %s", level, type(message))
    end
    if fields ~= nil and type(fields) ~= "table" then
      raise.misuse("log.%s: the fields must be a table, got %s", level, type(fields))
    end
    core.write(level, message, fields)
  end
end

--- log.info("order placed", { number = number, total_paise = total }): message, fields with string keys (32 at most).
M.debug, M.info, M.warn, M.error = writer("debug"), writer("info"), writer("warn"), writer("error")

return M
