-- A strict reader of what /metrics answers: Prometheus text 0.0.4, or OpenMetrics 1.0 when it ends in # EOF. It raises
-- at the first thing a scraper might refuse.
--
--   local families = exposition.parse(text)
--   families["http_requests_total"] = { type = "counter", help = "…",
--     samples = { { name =, labels = {…}, value = }, … } }
--   exposition.value(families, "http_requests_total", { route = "/", status = "2xx" }) → sum of the samples that match
local M = {}

local NAME = "^[%a_:][%w_:]*$"
local SUFFIXES = {
  histogram = { _bucket = true, _sum = true, _count = true }, counter = { [""] = true }, gauge = { [""] = true },
}

local function fail(line, what) error(what .. ": " .. line, 0) end

local function number(line, text)
  if text == "+Inf" then return math.huge end
  if not (text:find("^%-?%d+$") or text:find("^%-?%d+%.%d+$")) then fail(line, "not a number") end
  return tonumber(text)
end

local function labels(line, text)
  local out, at = {}, 1
  while at <= #text do
    local name, rest = text:match('^([%a_][%w_]*)="()', at)
    if not name then fail(line, "malformed labels") end
    if out[name] then fail(line, "label twice") end
    local value = {}
    at = rest
    while true do
      local c = text:sub(at, at)
      if c == "" or c == "\n" then fail(line, "label value without end") end
      if c == '"' then break end
      if c == "\\" then
        local escaped = ({ n = "\n", ["\\"] = "\\", ['"'] = '"' })[text:sub(at + 1, at + 1)]
        if not escaped then fail(line, "unknown escape") end
        value[#value + 1], at = escaped, at + 2
      else
        value[#value + 1], at = c, at + 1
      end
    end
    out[name] = table.concat(value)
    at = at + 1
    if at <= #text then
      if text:sub(at, at) ~= "," then fail(line, "labels without comma") end
      at = at + 1
    end
  end
  return out
end

local function key_of(sample, without)
  local list = {}
  for k, v in pairs(sample.labels) do if k ~= without then list[#list + 1] = k .. "=" .. v end end
  table.sort(list)
  return table.concat(list, "\0")
end

local function check_histogram(name, family)
  local series = {}
  for _, sample in ipairs(family.samples) do
    local key = key_of(sample, "le")
    local s = series[key] or { last = -1, n = -1 }
    series[key] = s
    if sample.name == name .. "_bucket" then
      local le = number(name, sample.labels.le)
      if le <= s.last then fail(name, "buckets out of order") end
      if sample.value < s.n then fail(name, "buckets not cumulative") end
      s.last, s.n = le, sample.value
    elseif sample.name == name .. "_count" then
      s.count = sample.value
    else
      s.sum = sample.value
    end
  end
  for _, s in pairs(series) do
    if s.last ~= math.huge then fail(name, "no +Inf bucket") end
    if s.count ~= s.n then fail(name, "_count is not the +Inf bucket") end
    if not s.sum then fail(name, "no _sum") end
  end
end

local function check(families)
  local seen = {}
  for name, family in pairs(families) do
    for _, sample in ipairs(family.samples) do
      local id = sample.name .. "\0" .. key_of(sample)
      if seen[id] then fail(id, "sample twice") end
      seen[id] = true
      if family.type == "counter" and sample.value < 0 then fail(sample.name, "negative counter") end
    end
    if family.type == "histogram" then check_histogram(name, family) end
  end
end

function M.parse(text)
  local families, current = {}, nil
  if text:sub(-1) ~= "\n" then error("the last line does not end", 0) end
  local is_open = text:sub(-6) == "# EOF\n"
  for line in text:gmatch("([^\n]*)\n") do
    local kind, name, rest = line:match("^# (%u+) (%S+) (.+)$")
    if kind == "HELP" then
      if families[name] then fail(line, "family twice, or not in one piece") end
      if not name:find(NAME) then fail(line, "bad name") end
      current = { name = name, help = rest, samples = {} }
      families[name] = current
    elseif kind == "TYPE" then
      if not current or current.name ~= name or current.type or #current.samples > 0 then
        fail(line, "misplaced TYPE")
      end
      if not SUFFIXES[rest] then fail(line, "unknown type") end
      current.type = rest
    elseif line == "# EOF" then
      current = { name = "", samples = {} }
    else
      local id, inside, value = line:match("^([%w_:]+){(.*)} (%S+)$")
      if not id then id, value = line:match("^([%w_:]+) (%S+)$") end
      if not id then fail(line, "malformed line") end
      if not current or not current.type then fail(line, "sample without TYPE") end
      local suffix = id:sub(1, #current.name) == current.name and id:sub(#current.name + 1)
      local allowed = SUFFIXES[current.type]
      if is_open and current.type == "counter" then allowed = { _total = true } end
      if not suffix or not allowed[suffix] then fail(line, "sample of another family") end
      if current.type == "counter" and not id:find("_total$") then fail(line, "counter without _total") end
      current.samples[#current.samples + 1] =
        { name = id, labels = labels(line, inside or ""), value = number(line, value) }
    end
  end
  check(families)
  return families
end

function M.value(families, name, wanted, family)
  local sum, found = 0, false
  for _, sample in ipairs((families[family or name] or error("no family " .. name)).samples) do
    local fits = sample.name == name
    for k, v in pairs(wanted or {}) do fits = fits and sample.labels[k] == v end
    if fits then sum, found = sum + sample.value, true end
  end
  return found and sum or nil
end

return M
