--- Order numbers: PC2627-000123. They restart every Indian financial year and fit a GST invoice's sixteen characters.
local M = {}

local IST_SECONDS = 19800   -- UTC+05:30, no daylight saving
local MAX_LEN = 16

--- The financial year a moment falls into, April to March, by the clock in Kolkata.
-- @param unix_seconds integer
-- @return string  "2026-27"
function M.financial_year(unix_seconds)
  local date = os.date("!*t", unix_seconds + IST_SECONDS)
  local first = date.month >= 4 and date.year or date.year - 1
  return ("%d-%02d"):format(first, (first + 1) % 100)
end

--- @param prefix string  "PC"   @param year string  "2026-27"   @param n integer  counted per year
-- @return string  "PC2627-000123"; an error if it would not fit
function M.format(prefix, year, n)
  local number = ("%s%s%s-%06d"):format(prefix, year:sub(3, 4), year:sub(6, 7), n)
  if #number > MAX_LEN then error("order number " .. number .. " is longer than 16 characters") end
  return number
end

return M
