---@meta chowk.mail
-- luacheck: ignore 212 241 (signatures only)

---Mail through the server of `mail.url`. `send` waits, and raises `mail_refused`, `unavailable`, `timeout`,
---`queue_full` or `outcome_unknown`. Not inside pg.tx: leave it to a job.
---@class chowk.mail
local mail = {}

---@alias chowk.mail.address string|{ name?: string, address: string } "a@example.com", "Asha Rao <a@example.com>"

---@class chowk.mail.attachment
---@field name string
---@field type? string "application/octet-stream"
---@field data string bytes

---@class chowk.mail.message
---@field to chowk.mail.address|chowk.mail.address[]
---@field cc? chowk.mail.address|chowk.mail.address[]
---@field bcc? chowk.mail.address|chowk.mail.address[]
---@field from? chowk.mail.address mail.from by default
---@field reply_to? chowk.mail.address|chowk.mail.address[]
---@field subject? string this, text and html may come from the template
---@field text? string
---@field html? string
---@field template? chowk.mail.template
---@field data? table for the template
---@field attachments? chowk.mail.attachment[]
---@field headers? table<string, string>
---@field timeout? number|string mail.timeout by default

---Taken by the mail server for all who shall get it, or for none.
---@param message chowk.mail.message
---@return string message_id
function mail.send(message) end

---@alias chowk.mail.template fun(data?: table): { subject?: string, text?: string, html?: string }

---At load time. {{name}} is a value, escaped in html; {{{name}}} as it is; {{price|filter}}; {{#list}}…{{/list}},
---{{^list}}…{{/list}}, {{! … }}. A value that is not there raises.
---@param source { subject?: string, text?: string, html?: string, filters?: table<string, fun(value: any): string> }
---@return chowk.mail.template
function mail.template(source) end

---As it may stand in HTML.
---@param text any
---@return string
function mail.escape(text) end

---@class chowk.mail.kept
---@field id string
---@field from string
---@field to string[]
---@field subject string
---@field text? string
---@field html? string
---@field attachments chowk.mail.attachment[]
---@field headers table<string, string>
---@field raw string

---What was sent while there was no mail server: the last hundred of this worker. Development only.
---@return chowk.mail.kept[]
function mail.outbox() end

function mail.clear_outbox() end

---@class chowk.mail.stats
---@field active integer
---@field waiting integer
---@field sent integer
---@field failed integer

---Of this worker; nil without a mail server.
---@return chowk.mail.stats?
function mail.stats() end

return mail
