--- Which GST state an address lies in: the delivery state decides between CGST + SGST and IGST.
local M = {}

-- code of the GSTIN, letters of the vehicle registration, name
local STATES = {
  { "01", "JK", "Jammu and Kashmir" }, { "02", "HP", "Himachal Pradesh" }, { "03", "PB", "Punjab" },
  { "04", "CH", "Chandigarh" }, { "05", "UK", "Uttarakhand" }, { "06", "HR", "Haryana" }, { "07", "DL", "Delhi" },
  { "08", "RJ", "Rajasthan" }, { "09", "UP", "Uttar Pradesh" }, { "10", "BR", "Bihar" }, { "11", "SK", "Sikkim" },
  { "12", "AR", "Arunachal Pradesh" }, { "13", "NL", "Nagaland" }, { "14", "MN", "Manipur" },
  { "15", "MZ", "Mizoram" }, { "16", "TR", "Tripura" }, { "17", "ML", "Meghalaya" }, { "18", "AS", "Assam" },
  { "19", "WB", "West Bengal" }, { "20", "JH", "Jharkhand" }, { "21", "OD", "Odisha" }, { "22", "CG", "Chhattisgarh" },
  { "23", "MP", "Madhya Pradesh" }, { "24", "GJ", "Gujarat" },
  { "26", "DN", "Dadra and Nagar Haveli and Daman and Diu" }, { "27", "MH", "Maharashtra" },
  { "29", "KA", "Karnataka" }, { "30", "GA", "Goa" }, { "31", "LD", "Lakshadweep" }, { "32", "KL", "Kerala" },
  { "33", "TN", "Tamil Nadu" }, { "34", "PY", "Puducherry" }, { "35", "AN", "Andaman and Nicobar Islands" },
  { "36", "TS", "Telangana" }, { "37", "AP", "Andhra Pradesh" }, { "38", "LA", "Ladakh" },
}

local code_of = { ["new delhi"] = "07", orissa = "21", pondicherry = "34", ["jammu & kashmir"] = "01",
                  uttaranchal = "05", tg = "36", ["or"] = "21", ct = "22", ut = "05" }
for _, state in ipairs(STATES) do
  for _, spelling in ipairs(state) do code_of[spelling:lower()] = state[1] end
end

--- @param state string  "29", "KA", "Karnataka" or "IN-KA", in any case
-- @return string|nil   the two-digit code, nil if there is no such state
function M.code(state)
  local spelling = state:lower():match("^%s*(.-)%s*$"):gsub("^in%-", "")
  return code_of[spelling]
end

return M
