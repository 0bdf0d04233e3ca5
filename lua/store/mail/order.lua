--- What buyers are told of their order, by the move that it made (store/machines).
local mail = require "chowk.mail"
local settings = require "store.settings"

local filters = {
  rupees = function(paise) return ("₹%d.%02d"):format(math.floor(paise / 100), paise % 100) end,
}

local function template(subject, text)
  return mail.template {
    subject = subject, filters = filters,
    text = "Dear {{name}},\n\n" .. text .. "\n\nYours,\n" .. settings.shop_name .. "\n",
  }
end

local confirmed = template("Your order {{number}}", [[
thank you for your order {{number}} of {{total_paise|rupees}}:

{{#items}}
  {{quantity}} × {{name}}
{{/items}}

We tell you when it is on its way.]])

return {
  confirm = confirmed,
  revive = confirmed,
  ship = template("Your order {{number}} is on its way", [[
{{carrier}} has your order {{number}}.
{{#tracking_number}}
Its tracking number is {{tracking_number}}.
{{/tracking_number}}]]),
  cancel = template("Your order {{number}} is cancelled", [[
your order {{number}} is cancelled.
{{#was_paid}}
What you paid goes back to where it came from, within a week.
{{/was_paid}}]]),
}
