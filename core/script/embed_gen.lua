-- Build tool: compiles lua/chowk/*.lua to bytecode and prints build/embed.c (core/script/embed.h).
-- Usage: luajit core/script/embed_gen.lua lua/chowk/app.lua … > build/embed.c
local out = { '#include "script/embed.h"\n' }
local rows = {}

for i, path in ipairs(arg) do
  local file = assert(io.open(path, "rb"))
  local source = file:read("*a")
  file:close()
  local chunk = assert(loadstring(source, "@" .. path))
  local code = string.dump(chunk) -- keeps debug information: errors name file and line
  local lines = {}
  for at = 1, #code, 24 do
    local bytes = { code:byte(at, math.min(at + 23, #code)) }
    lines[#lines + 1] = "    " .. table.concat(bytes, ",")
  end
  out[#out + 1] = ("static const unsigned char code_%d[] = {\n%s};\n"):format(i, table.concat(lines, ",\n"))
  rows[#rows + 1] = ('    {"chowk.%s", code_%d, %d},\n'):format(path:match("([%w_]+)%.lua$"), i, #code)
end

out[#out + 1] = "const struct embed embed_modules[] = {\n" .. table.concat(rows) .. "    {0, 0, 0},\n};\n"
io.write(table.concat(out, "\n"))
