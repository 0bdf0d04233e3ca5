-- Clocks, durations and RFC 3339. None of these yields; all may be used in every phase.
local core = require "chowk.core.time"
local raise = require "chowk.raise"

local floor = math.floor
local M = {}

--- Milliseconds since 1970, and of a clock that only goes forward.
M.unix_ms, M.mono_ms = core.unix_ms, core.mono_ms

--- Whole seconds since 1970.
function M.unix()
  return floor(core.unix_ms() / 1000)
end

--- Now as RFC 3339 in UTC: "2026-11-23T06:19:16.123Z".
function M.now()
  return core.rfc3339(core.unix_ms())
end

local UNITS = { ms = 0.001, s = 1, m = 60, h = 3600, d = 86400, w = 604800 }

--- A duration in seconds: a number is seconds; text is "200ms", "15m", "6h", "1h30m".
-- @param duration number|string  @return number
-- Raises a misuse naming what it got.
function M.seconds(duration)
  if type(duration) == "number" and duration >= 0 and duration < math.huge then return duration end
  local total, rest = 0, type(duration) == "string" and duration or ""
  if rest == "" then
    raise.misuse('expected a duration such as "15m" or a number of seconds, got %s', tostring(duration))
  end
  while rest ~= "" do
    local amount, unit, after = rest:match("^(%d+%.?%d*)(%a+)(.*)$")
    if not UNITS[unit] then raise.misuse('"%s" is not a duration: write "200ms", "15m", "6h", "1h30m"', duration) end
    total, rest = total + tonumber(amount) * UNITS[unit], after
  end
  return total
end

-- India has no summer time; other zones need a zone database, which is not here.
local ZONES = { UTC = 0, Z = 0, ["Asia/Kolkata"] = 19800, ["Asia/Calcutta"] = 19800 }

local function offset_of(zone)
  local offset = ZONES[zone]
  if offset then return offset end
  local sign, hours, minutes = tostring(zone):match("^([+-])(%d%d):(%d%d)$")
  if not sign or tonumber(hours) > 14 or tonumber(minutes) > 59 then
    raise.misuse('unknown zone "%s": "UTC", "Asia/Kolkata" and "+05:30" forms are known', tostring(zone))
  end
  return (hours * 3600 + minutes * 60) * (sign == "-" and -1 or 1)
end

-- Days since 1970-01-01 of a proleptic Gregorian date, counting years from March.
local function days_from_civil(y, m, d)
  if m <= 2 then y = y - 1 end
  local era = floor(y / 400)
  local year_of_era = y - era * 400
  local day_of_year = floor((153 * (m + (m > 2 and -3 or 9)) + 2) / 5) + d - 1
  return era * 146097 + year_of_era * 365 + floor(year_of_era / 4) - floor(year_of_era / 100) + day_of_year - 719468
end

local DAYS = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }
local function is_date(y, m, d)
  if m < 1 or m > 12 or d < 1 then return false end
  local leap = m == 2 and (y % 4 == 0 and (y % 100 ~= 0 or y % 400 == 0)) and 1 or 0
  return d <= DAYS[m] + leap
end

local RFC3339 = "^(%d%d%d%d)-(%d%d)-(%d%d)[Tt ](%d%d):(%d%d):(%d%d)(%.?%d*)(.+)$"

--- RFC 3339 text → seconds since 1970, with milliseconds as a fraction; nil if it is not such a time.
-- @param text string  "2026-11-23T11:49:16.123+05:30"  @return number|nil
function M.parse(text)
  if type(text) ~= "string" then raise.misuse("time.parse: expected a string, got %s", type(text)) end
  local y, mo, d, h, mi, s, fraction, zone = text:match(RFC3339)
  if not y then return nil end
  y, mo, d, h, mi, s = tonumber(y), tonumber(mo), tonumber(d), tonumber(h), tonumber(mi), tonumber(s)
  if not is_date(y, mo, d) or h > 23 or mi > 59 or s > 59 or fraction == "." then return nil end
  if zone == "z" then zone = "Z" end
  if zone ~= "Z" and not zone:match("^[+-][01]%d:[0-5]%d$") then return nil end
  local seconds = days_from_civil(y, mo, d) * 86400 + h * 3600 + mi * 60 + s - offset_of(zone)
  if fraction == "" then return seconds end
  return (seconds * 1000 + floor(tonumber("0" .. fraction) * 1000)) / 1000
end

--- Seconds since 1970 → RFC 3339 in a zone.
-- @param unix number  @param zone string|nil  "UTC" (default), "Asia/Kolkata", "+05:30"
-- @return string  "2026-11-23T11:49:16.123+05:30"
function M.format(unix, zone)
  if type(unix) ~= "number" then raise.misuse("time.format: expected seconds since 1970, got %s", type(unix)) end
  local offset = offset_of(zone or "UTC")
  local text = core.rfc3339(floor((unix + offset) * 1000 + 0.5))
  if offset == 0 then return text end
  local minutes = math.abs(offset) / 60
  return ("%s%s%02d:%02d"):format(text:sub(1, -2), offset < 0 and "-" or "+", floor(minutes / 60), minutes % 60)
end

return M
