-- A server with the tables of the queue, for specs of jobs.
local server = require "spec.support.server"

local M = {}

local function read(path)
  local f = assert(io.open(path))
  local text = f:read("*a")
  f:close()
  return text
end

--- The queue's tables, as the shop's migrations make them, and a table `effects` for the specs.
function M.schema()
  local machinery = read "migrations/0005_machinery.sql"
  return machinery:sub((assert(machinery:find("CREATE TYPE job_state", 1, true)))) .. read "migrations/0007_jobs.sql"
    .. "CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY, what text, job bigint, attempt int);"
end

--- opts as server.start. `beside`: another machine on the database of that one.
function M.start(opts, beside)
  opts.start = false
  opts.config = opts.config or {}
  opts.config.jobs = opts.config.jobs or {}
  opts.config.jobs.lease = opts.config.jobs.lease or "1s"
  if beside then opts.url = function() return beside.database_url end end
  local s = server.start(opts)
  if beside then s.database = beside.database else s:exec(M.schema()) end
  s:start_process()
  return s
end

function M.count(s, from) return s:sql("SELECT count(*) AS n FROM " .. from)[1].n end

return M
