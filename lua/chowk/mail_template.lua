-- Templates of mails: part of chowk.mail, private to the library. A small, strict cousin of mustache.
--
--   {{name}} {{order.number}} {{.}}      a value; escaped in html, a line break in a subject is an error
--   {{{name}}}                           as it is, in html
--   {{price|rupees}}                     through a filter of the template
--   {{#items}} … {{/items}}              for each of a list; once for a value that is there, with its fields at hand
--   {{^items}} … {{/items}}              when it is nil, false or an empty list
--   {{! … }}                             nothing
--
-- Names are looked up in the innermost section first, then outward. A value that is not there is an error, not an empty
-- place in somebody's mail. A template is compiled when it is made: its mistakes stop the load, with file and line.
local raise = require "chowk.raise"

local misuse = raise.misuse

local M = {}

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

--- Text as it may stand in HTML, between tags and in quoted attributes.
function M.escape(text)
  return (tostring(text):gsub("[&<>\"']", ESCAPES))
end

-- ---- compiling ----------------------------------------------------------------------------------------------

local function line_at(source, position)
  local _, n = source:sub(1, position):gsub("\n", "")
  return n + 1
end

-- A tag that stands alone on its line takes the line with it.
local function alone(source, from, to)
  local before = source:sub(1, from - 1):match("\n?([ \t]*)$")
  local start = from - #before
  if start > 1 and source:sub(start - 1, start - 1) ~= "\n" then return nil end
  local rest = source:match("^[ \t]*()", to + 1)
  if rest > #source then return start, #source end
  if source:sub(rest, rest) == "\n" then return start, rest end
  return nil
end

local function next_tag(part, source, at)
  local from, open = source:find("{{", at, true)
  if not from then return nil end
  local is_raw = source:sub(open + 1, open + 1) == "{"
  local close, to = source:find(is_raw and "}}}" or "}}", open + 1, true)
  if not close then misuse("mail.template: %s line %d: {{ without }}", part, line_at(source, from)) end
  local inside = source:sub(open + (is_raw and 2 or 1), close - 1)
  local kind, rest = inside:match("^%s*([#%^/!]?)%s*(.-)%s*$")
  return { from = from, to = to, kind = is_raw and "raw" or kind, text = rest, line = line_at(source, from) }
end

local function value_node(part, tag, filters, escapes)
  local path, filter = tag.text:match("^([%w_%.]+)%s*|%s*([%w_]+)$")
  path = path or tag.text:match("^[%w_%.]+$")
  if not path then misuse("mail.template: %s line %d: {{%s}} is not a name", part, tag.line, tag.text) end
  if filter and not filters[filter] then
    misuse("mail.template: %s line %d: there is no filter %s", part, tag.line, filter)
  end
  return { path = path, filter = filter and filters[filter], escapes = escapes and tag.kind ~= "raw", line = tag.line }
end

local function compile(part, source, filters, escapes)
  local root = {}
  local stack, nodes, at = {}, root, 1
  while true do
    local tag = next_tag(part, source, at)
    if not tag then break end
    local start, stop
    if tag.kind ~= "" and tag.kind ~= "raw" then start, stop = alone(source, tag.from, tag.to) end
    nodes[#nodes + 1] = source:sub(at, (start or tag.from) - 1)
    at = (stop or tag.to) + 1
    if tag.kind == "#" or tag.kind == "^" then
      local node = { section = value_node(part, tag, {}).path, is_inverse = tag.kind == "^", nodes = {} }
      nodes[#nodes + 1] = node
      stack[#stack + 1] = { node = node, outer = nodes, line = tag.line }
      nodes = node.nodes
    elseif tag.kind == "/" then
      local top = table.remove(stack)
      if not top or top.node.section ~= tag.text then
        misuse("mail.template: %s line %d: {{/%s}} closes nothing that is open", part, tag.line, tag.text)
      end
      nodes = top.outer
    elseif tag.kind ~= "!" then
      nodes[#nodes + 1] = value_node(part, tag, filters, escapes)
    end
  end
  if #stack > 0 then
    local top = stack[#stack]
    misuse("mail.template: %s line %d: {{#%s}} is never closed", part, top.line, top.node.section)
  end
  nodes[#nodes + 1] = source:sub(at)
  return root
end

-- ---- rendering ----------------------------------------------------------------------------------------------

local function look_up(scopes, path)
  if path == "." then return scopes[#scopes] end
  local first, rest = path:match("^([^%.]+)%.?(.*)$")
  local value
  for i = #scopes, 1, -1 do
    if type(scopes[i]) == "table" then value = scopes[i][first] end
    if value ~= nil then break end
  end
  for name in rest:gmatch("[^%.]+") do
    if type(value) ~= "table" then return nil end
    value = value[name]
  end
  return value
end

local render

local function render_section(part, node, scopes, out)
  local value = look_up(scopes, node.section)
  local is_list = type(value) == "table" and (value[1] ~= nil or next(value) == nil)
  local is_there = value and not (is_list and #value == 0)
  if node.is_inverse then
    if not is_there then render(part, node.nodes, scopes, out) end
  elseif is_there then
    for _, item in ipairs(is_list and value or { value }) do
      scopes[#scopes + 1] = item
      render(part, node.nodes, scopes, out)
      scopes[#scopes] = nil
    end
  end
end

local function render_value(part, node, scopes, out)
  local value = look_up(scopes, node.path)
  if value == nil then misuse("mail.template: %s line %d: there is no value %s", part, node.line, node.path) end
  if node.filter then value = node.filter(value) end
  if type(value) == "table" then
    misuse("mail.template: %s line %d: %s is a table: use a section or a filter", part, node.line, node.path)
  end
  out[#out + 1] = node.escapes and M.escape(value) or tostring(value)
end

function render(part, nodes, scopes, out)
  for _, node in ipairs(nodes) do
    if type(node) == "string" then
      out[#out + 1] = node
    elseif node.section then
      render_section(part, node, scopes, out)
    else
      render_value(part, node, scopes, out)
    end
  end
end

local PARTS = { "subject", "text", "html" }
local KEYS = { subject = true, text = true, html = true, filters = true }

--- See M.template of chowk.mail.
function M.new(source)
  if type(source) ~= "table" then misuse("mail.template: expected { subject =, text =, html =, filters = }") end
  for key in pairs(source) do
    if not KEYS[key] then raise.unknown("mail.template", key, KEYS) end
  end
  local compiled, filters = {}, source.filters or {}
  for _, part in ipairs(PARTS) do
    if source[part] ~= nil then
      if type(source[part]) ~= "string" then misuse("mail.template: %s: expected a string", part) end
      compiled[part] = compile(part, source[part], filters, part == "html")
    end
  end
  return function(data)
    local result = {}
    for part, nodes in pairs(compiled) do
      local out = {}
      render(part, nodes, { data or {} }, out)
      result[part] = table.concat(out)
    end
    return result
  end
end

return M
