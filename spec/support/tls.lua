-- Certificates for one spec, by openssl: dir/NAME.key and dir/NAME.crt.
--   tls.authority(dir, "ca")   tls.certificate(dir, "ca", "good", "DNS:localhost")
local server = require "spec.support.server"

local M = {}
local CURVE = " -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN="

local function openssl(dir, command)
  local out, code = server.sh("cd " .. dir .. " && openssl " .. command)
  assert(code == 0, out)
end

--- A certificate that signs itself.
function M.authority(dir, name)
  openssl(dir, "req -x509 -days 2" .. CURVE .. name .. " -keyout " .. name .. ".key -out " .. name .. ".crt")
end

--- One signed by `ca` for the names in `alt`: "DNS:localhost,IP:127.0.0.1".
function M.certificate(dir, ca, name, alt)
  openssl(dir, "req" .. CURVE .. name .. " -keyout " .. name .. ".key -out " .. name .. ".csr")
  server.sh("echo subjectAltName=" .. alt .. " >" .. dir .. "/" .. name .. ".ext")
  openssl(dir, "x509 -req -days 2 -in " .. name .. ".csr -CA " .. ca .. ".crt -CAkey " .. ca .. ".key -CAcreateserial"
    .. " -extfile " .. name .. ".ext -out " .. name .. ".crt")
end

return M
