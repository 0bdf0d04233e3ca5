-- No conversion loses anything: PostgreSQL → Lua → JSON → Lua → PostgreSQL, at each type's extremes, compared by
-- PostgreSQL itself, as values and as texts.
local server = require "spec.support.server"

local APP = [=[
local app, pg, json, crypto = require "chowk.app", require "chowk.pg", require "chowk.json", require "chowk.crypto"
local routes = app.routes()

local function unbase64(list)
  if type(list) ~= "table" then return list == json.null and list or pg.bytea(crypto.unbase64(list)) end
  local out = {}
  for i, item in ipairs(list) do out[i] = unbase64(item) end
  return out
end

-- How each kind of value is given back.
local PARAMS = {
  plain = function(v) return v end,
  array = function(v) return pg.array(v) end,
  jsonb = function(v) return pg.jsonb(v) end,
  jsonb_array = function(v) return pg.array(v, "jsonb") end,
  bytea = unbase64,
  bytea_array = function(v) return pg.array(unbase64(v)) end,
}

local WAYS = {
  row = function(type_name) return json.encode(pg.query("SELECT v FROM a_" .. type_name .. " ORDER BY id")) end,
  value = function(type_name)
    local out = json.array {}
    for i = 1, pg.value("SELECT count(*) FROM a_" .. type_name) do
      out[i] = { v = pg.value("SELECT v FROM a_" .. type_name .. " WHERE id = $1", i) }
    end
    return json.encode(out)
  end,
  json = function(type_name) return tostring(pg.json("SELECT v FROM a_" .. type_name .. " ORDER BY id")) end,
  tx = function(type_name)
    return pg.tx(function(tx) return json.encode(tx:query("SELECT v FROM a_" .. type_name .. " ORDER BY id")) end)
  end,
}

routes:get("/travel/:way/:type/:kind", {}, function(req)
  local type_name, param = req.params.type, PARAMS[req.params.kind]
  local text = WAYS[req.params.way](type_name)
  pg.exec("DELETE FROM b_" .. type_name)
  for i, row in ipairs(json.decode(text)) do
    pg.exec("INSERT INTO b_" .. type_name .. " VALUES ($1, $2)", i, param(row.v))
  end
  return json.raw(text)
end)

routes:get("/raw", {}, function() -- numbers that no double holds
  local out = json.array {}
  for i, row in ipairs(pg.query("SELECT v FROM a_wide ORDER BY id")) do
    local ok, err = pcall(json.decode, json.encode(row))
    out[i] = { kind = type(row.v), refused = not ok and err.code }
    pg.exec("INSERT INTO b_wide VALUES ($1, $2)", i, pg.jsonb(row.v))
  end
  return { rows = out, sent = pg.json("SELECT v FROM a_wide ORDER BY id") }
end)
routes:get("/misuse", {}, function()
  local ok, err = pcall(pg.bytea, 7)
  return { ok = ok, err = err }
end)
return routes
]=]

-- type, kind of parameter, values as SQL
local TYPES = {
  { "bool", "plain", { "true", "false", "NULL" } },
  { "int2", "plain", { "32767", "-32768" } },
  { "int4", "plain", { "2147483647", "-2147483648", "0" } },
  { "int8", "plain", { "9223372036854775807", "-9223372036854775808", "9007199254740993", "99999999999999",
    "100000000000000", "-99999999999999", "-100000000000000", "123456789012345" } },
  { "numeric(20,4)", "plain", { "9999999999999999.9999", "-9999999999999999.9999", "0.0001", "0", "1.1000", "'NaN'" } },
  { "numeric", "plain", { "0.1234567890123456789012345678901234567890", "1e131000", "-1e-16000", "'Infinity'", "1.10",
    "'-Infinity'", "123456789012345678901234567890", "100" } },
  { "float8", "plain", { "'1.7976931348623157e308'", "'5e-324'", "0.1", "0.30000000000000004", "'NaN'", "'-Infinity'",
    "1e15", "123456789012345678", "-1e-7", "2.2250738585072014e-308" } },
  { "float4", "plain", { "'3.4028235e38'", "'1e-45'", "0.1", "'Infinity'", "16777217" } },
  { "text", "plain", { "''", [[E'tab\there "quoted" \\ back\nline\u0001\x7f']], "'ü 中 😀 \xE2\x80\xA8'",
    "'null'", "'{1,2}'", "repeat('x', 100000)" } },
  { "timestamptz", "plain", { "'infinity'", "'-infinity'", "'2026-11-23 06:19:16.123456+00'",
    "'4714-11-24 00:00:00+00 BC'", "'0044-03-15 12:00:00.000001+00 BC'", "'294276-12-31 23:59:59.999999+00'",
    "'0001-01-01 00:00:00+00'", "'2026-11-23 12:00:00+05:30'", "'10000-01-01 00:00:00.5+00'" } },
  { "timestamp", "plain", { "'infinity'", "'2026-11-23 06:19:16.123456'", "'0044-03-15 12:00:00 BC'",
    "'294276-12-31 23:59:59.999999'" } },
  { "date", "plain", { "'infinity'", "'-infinity'", "'2026-02-28'", "'4713-01-01 BC'", "'5874897-12-31'" } },
  { "interval", "plain", { "'1 year 2 months -3 days 04:05:06.789'", "'-178000000 years'", "'0'",
    "'-1 microsecond'" } },
  { "time", "plain", { "'24:00:00'", "'00:00:00.000001'" } },
  { "uuid", "plain", { "'ffffffff-ffff-ffff-ffff-ffffffffffff'" } },
  { "inet", "plain", { "'::ffff:1.2.3.4/128'", "'10.0.0.0/8'" } },
  { "int4range", "plain", { "'[1,10)'", "'empty'", "'(,5)'" } },
  { "bytea", "bytea", { [['\x']], [['\x00']], [['\x00ff105c27220a']],
    "decode(repeat('00ff', 5000), 'hex')" } },
  { "text[]", "array", { "'{}'", "ARRAY['', 'NULL', NULL, 'a,b', '{}', E'q\"\\\\', ' x ', E'\\n']",
    "ARRAY[['a', NULL], ['\"', 'ü']]", "ARRAY[[['1'],['2']],[['3'],['4']]]" } },
  { "int8[]", "array", { "ARRAY[9223372036854775807, NULL, -9223372036854775808, 1]", "ARRAY[[1,2],[3,4]]" } },
  { "numeric(20,4)[]", "array", { "ARRAY[9999999999999999.9999, NULL, 0.0001]" } },
  { "float8[]", "array", { "ARRAY['NaN', 'Infinity', 0.1, NULL]::float8[]" } },
  { "bool[]", "array", { "ARRAY[true, false, NULL]" } },
  { "timestamptz[]", "array", { "ARRAY['infinity', NULL, '2026-11-23 06:19:16.123456+00', '0044-03-15 12:00:00+00 BC']"
    .. "::timestamptz[]" } },
  { "uuid[]", "array", { "ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', NULL]::uuid[]" } },
  { "bytea[]", "bytea_array", { [[ARRAY['\x00ff', NULL, '\x']::bytea[] ]] } },
  { "jsonb", "jsonb", { "'null'", "'{}'", "'[]'", "'[[], {}, [null]]'", "'\"text\"'", "'0'", "'true'",
    [['{"a": {"b": [1, -2.5, 1e10, "\" \u0001 ü", null, {"": ""}]}, "ü": "😀"}']],
    "'[0.1, 0.30000000000000004, 9007199254740991, -99999999999999, 1.10, 5e-5, 123456789012345]'" } },
  { "jsonb[]", "jsonb_array", { [[ARRAY['{"a": [1, null]}', '[]', '{}', '"x\"y"', '1.5', NULL]::jsonb[] ]] } },
}

describe("every type", function()
  local s
  setup(function() s = server.start { app = APP, config = { workers = 1 } } end)
  teardown(function() s:stop() end)

  local function name_of(type_name) return (type_name:gsub("%[%]", "_list"):gsub("[^%w]+", "_")) end

  for _, row in ipairs(TYPES) do
    local type_name, kind, values = row[1], row[2], row[3]
    it("comes back unchanged: " .. type_name, function()
      local name = name_of(type_name)
      local inserts = {}
      for i, value in ipairs(values) do inserts[i] = ("(%d, %s)"):format(i, value) end
      s:exec(("CREATE TABLE a_%s (id int, v %s); CREATE TABLE b_%s (id int, v %s); INSERT INTO a_%s VALUES %s"):format(
        name, type_name, name, type_name, name, table.concat(inserts, ", ")))
      for _, way in ipairs { "row", "value", "json", "tx" } do
        local answer = s:get(("/travel/%s/%s/%s"):format(way, name, kind))
        assert.equal(200, answer.status, way .. ": " .. answer.body)
        local is_float = type_name:find("float", 1, true) or type_name:find("json", 1, true)
        local changed = s:sql(([[
          SELECT a.id, left(a.v::text, 200) AS was, left(b.v::text, 200) AS is FROM a_%s a LEFT JOIN b_%s b USING (id)
          WHERE a.v IS DISTINCT FROM b.v OR (%s AND a.v::text IS DISTINCT FROM b.v::text)]]):format(
          name, name, is_float and "false" or "true"))
        assert.same({}, changed, way)
      end
    end)
  end

  it("keeps a jsonb whole that Lua cannot hold: raw, and refused where it would be rounded", function()
    s:exec([[CREATE TABLE a_wide (id int, v jsonb); CREATE TABLE b_wide (id int, v jsonb);
      INSERT INTO a_wide VALUES (1, '{"n": 9007199254740993}'), (2, '[0.1234567890123456789]'), (3, '1e400'),
        (4, '{"deep": [{"n": -12345678901234567890.123}]}')]])
    local answer = s:get("/raw")
    assert.equal(200, answer.status, answer.body)
    for i, row in ipairs(answer.json.rows) do
      assert.equal("userdata", row.kind, i)
      if i ~= 2 then assert.equal("invalid", row.refused, i) end
    end
    assert.truthy(answer.body:find('{"n": 9007199254740993}', 1, true))
    assert.same({}, s:sql("SELECT id FROM a_wide a JOIN b_wide b USING (id) WHERE a.v <> b.v"))
    assert.equal(4, s:sql("SELECT count(*) AS n FROM b_wide")[1].n)
  end)

  it("says what pg.bytea takes", function()
    local j = s:get("/misuse").json
    assert.is_false(j.ok)
    assert.truthy(j.err:find("pg.bytea: expected a string", 1, true))
  end)
end)
