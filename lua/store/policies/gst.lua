--- GST on prices that already contain it. Pure arithmetic in integer paise; rates are basis points (1800 = 18 %).
-- Numbers stay exact up to 10^11 paise (100 crore rupees) a line. Have an accountant confirm rates and rounding.
local M = {}

local FULL = 10000

--- Integer division, halves upwards. Both positive.
local function divide_half_up(a, b)
  local doubled = 2 * a + b
  return (doubled - doubled % (2 * b)) / (2 * b)
end

--- Splits what the customer pays into taxable value and tax.
-- Inside one state the tax is half central, half state (an odd paisa goes to the state); between two it is integrated.
-- @param gross_paise integer   what is paid for the line, discount already taken off
-- @param rate_bp integer       e.g. 500
-- @param same_state boolean    delivered in the seller's state
-- @return table {taxable, tax, cgst, sgst, igst}   taxable + tax = gross, cgst + sgst + igst = tax
function M.split(gross_paise, rate_bp, same_state)
  local taxable = divide_half_up(gross_paise * FULL, FULL + rate_bp)
  local tax = gross_paise - taxable
  local split = { taxable = taxable, tax = tax, cgst = 0, sgst = 0, igst = 0 }
  if same_state then
    split.cgst = math.floor(tax / 2)
    split.sgst = tax - split.cgst
  else
    split.igst = tax
  end
  return split
end

--- Spreads an order's discount over its lines by their value, so that the shares add up to the discount exactly:
-- everyone gets the whole paise of their share, and the paise left over go to the largest remainders.
-- @param discount_paise integer   at most the sum of the values
-- @param values integer[]         the lines' values in paise
-- @return integer[]               each line's share, never more than its value
function M.spread(discount_paise, values)
  local total = 0
  for _, value in ipairs(values) do total = total + value end
  local shares, order, left = {}, {}, discount_paise
  if total == 0 then
    for i in ipairs(values) do shares[i] = 0 end
    return shares
  end
  local remainder = {}
  for i, value in ipairs(values) do
    local exact = discount_paise * (value / total)
    shares[i] = math.floor(exact)
    remainder[i] = exact - shares[i]
    order[i] = i
    left = left - shares[i]
  end
  table.sort(order, function(a, b)
    if remainder[a] ~= remainder[b] then return remainder[a] > remainder[b] end
    return a < b
  end)
  -- A float just below a whole number may leave more than one paisa per line; hence rounds, not one pass.
  while left > 0 do
    local before = left
    for _, i in ipairs(order) do
      if left > 0 and shares[i] < values[i] then
        shares[i], left = shares[i] + 1, left - 1
      end
    end
    if left == before then error("discount larger than the lines it is spread over") end
  end
  return shares
end

return M
