-- The shop's arithmetic: GST (vectors of a published calculation), discounts, coupons, numbers. No server needed.
package.path = "lua/?.lua;" .. package.path
local gst = require "store.policies.gst"
local coupon = require "store.policies.coupon"
local shipping = require "store.policies.shipping"
local place_of_supply = require "store.policies.place_of_supply"

local function sum(list)
  local total = 0
  for _, n in ipairs(list) do total = total + n end
  return total
end

describe("gst.split", function()
  it("takes the tax out of an inclusive price, half a paisa upwards", function()
    for _, v in ipairs { { 49900, 500, 47524, 2376 }, { 49900, 1800, 42288, 7612 }, { 299900, 1800, 254153, 45747 },
                         { 0, 1800, 0, 0 }, { 1, 1800, 1, 0 }, { 9900, 0, 9900, 0 } } do
      local s = gst.split(v[1], v[2], false)
      assert.same({ v[3], v[4] }, { s.taxable, s.tax })
    end
  end)

  it("is central and state tax inside one state, integrated between two", function()
    assert.same({ taxable = 47524, tax = 2376, cgst = 1188, sgst = 1188, igst = 0 }, gst.split(49900, 500, true))
    assert.same({ taxable = 47524, tax = 2376, cgst = 0, sgst = 0, igst = 2376 }, gst.split(49900, 500, false))
  end)

  it("loses no paisa when the tax is odd", function()
    local odd = gst.split(10005, 1800, true)
    assert.equal(8479, odd.taxable)
    assert.same({ 763, 763 }, { odd.cgst, odd.sgst })
    for gross = 1, 3000 do
      for _, rate in ipairs { 0, 500, 1800, 4000 } do
        local s = gst.split(gross, rate, true)
        assert(s.taxable + s.cgst + s.sgst == gross, gross)
        assert(s.sgst - s.cgst == 0 or s.sgst - s.cgst == 1, gross)
      end
    end
  end)

  it("stays exact for amounts of many crores", function()
    local s = gst.split(99999999999, 1800, false)
    assert.equal(84745762711, s.taxable)   -- 99999999999 / 1.18 = 84745762711.02
    assert.equal(99999999999, s.taxable + s.tax)
  end)
end)

describe("gst.spread", function()
  it("shares by value, largest remainder first", function()
    assert.same({ 33, 33, 34 }, gst.spread(100, { 100, 100, 101 }))
    assert.same({ 34, 33, 33 }, gst.spread(100, { 100, 100, 100 }))
    assert.same({ 0, 0 }, gst.spread(0, { 5, 7 }))
    assert.same({ 0 }, gst.spread(0, { 0 }))
    assert.same({ 5, 7 }, gst.spread(12, { 5, 7 }))
  end)

  it("always adds up and never exceeds a line", function()
    math.randomseed(1)
    for _ = 1, 2000 do
      local values = {}
      for i = 1, math.random(1, 9) do values[i] = math.random(0, 300000) end
      local discount = math.random(0, sum(values))
      local shares = gst.spread(discount, values)
      assert.equal(discount, sum(shares))
      for i, share in ipairs(shares) do assert(share >= 0 and share <= values[i]) end
    end
  end)
end)

describe("coupon.apply", function()
  local function row(fields)
    local c = { kind = "percent", value = 1000, min_subtotal_paise = 0, per_user_limit = 1, used = 0, is_active = true,
                has_started = true, has_ended = false }
    for k, v in pairs(fields) do c[k] = v end
    return c
  end

  it("knows percent, capped percent, flat and free shipping", function()
    assert.equal(4990, coupon.apply(row {}, 49900, 0).discount_paise)
    assert.equal(3000, coupon.apply(row { max_discount_paise = 3000 }, 49900, 0).discount_paise)
    assert.equal(10000, coupon.apply(row { kind = "flat", value = 10000 }, 49900, 0).discount_paise)
    assert.equal(900, coupon.apply(row { kind = "flat", value = 10000 }, 900, 0).discount_paise)   -- never below zero
    assert.same({ discount_paise = 0, free_shipping = true }, coupon.apply(row { kind = "free_shipping" }, 900, 0))
  end)

  it("says why not", function()
    local function why(...) return (select(2, coupon.apply(...))) end
    assert.equal("coupon_not_found", why(nil, 1, 0))
    assert.equal("coupon_not_found", why(row { is_active = false }, 1, 0))
    assert.equal("coupon_not_found", why(row { has_started = false }, 1, 0))
    assert.equal("coupon_expired", why(row { has_ended = true }, 1, 0))
    assert.equal("coupon_minimum", why(row { min_subtotal_paise = 2 }, 1, 0))
    assert.equal("coupon_used_up", why(row { usage_limit = 3, used = 3 }, 1, 0))
    assert.equal("coupon_already_used", why(row {}, 1, 1))
  end)
end)

describe("shipping.price", function()
  it("is free from the threshold on", function()
    local tariff = { flat_paise = 4900, free_above_paise = 99900 }
    assert.equal(4900, shipping.price(99899, tariff))
    assert.equal(0, shipping.price(99900, tariff))
    assert.equal(0, shipping.price(1, { flat_paise = 0, free_above_paise = 0 }))
  end)
end)

describe("place_of_supply.code", function()
  it("takes codes, letters and names", function()
    for _, spelling in ipairs { "29", "KA", "ka", "Karnataka", " karnataka ", "IN-KA" } do
      assert.equal("29", place_of_supply.code(spelling))
    end
    assert.equal("07", place_of_supply.code("New Delhi"))
    assert.is_nil(place_of_supply.code("Atlantis"))
    assert.is_nil(place_of_supply.code("25"))
  end)
end)
