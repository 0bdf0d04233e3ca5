--- GET /: what a person sees, and may click.
local app = require "chowk.app"

local PAGE = [[
<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Razorpay, to practise with</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.4rem .6rem;border-bottom:1px solid #ddd}
button{margin:0 .3rem .2rem 0;padding:.2rem .6rem}code{font-size:.85em}.none{color:#777}
</style>
<h1>Razorpay, to practise with</h1>
<p>Orders that the shop has opened. What you click happens as at Razorpay, webhooks included; nothing is charged.</p>
<table><thead><tr><th>Receipt<th>Amount<th>Status<th>Payments<th></tr></thead><tbody id="orders"></tbody></table>
<p id="said" class="none"></p>
<script>
const $ = id => document.getElementById(id)
const ask = async (path, body) => {
  const res = await fetch('/sandbox' + path, body && { method: 'POST', body: JSON.stringify(body),
    headers: { 'Content-Type': 'application/json' } })
  const answer = await res.json()
  if (!res.ok) $('said').textContent = answer.detail
  return answer
}
const cell = (row, ...parts) => row.insertCell().append(...parts)
const button = (text, path, body) => {
  const b = document.createElement('button')
  b.textContent = text
  b.onclick = async () => { $('said').textContent = ''; await ask(path, body); await show() }
  return b
}
const show = async () => {
  const [orders, payments, refunds] = await Promise.all(['/orders', '/payments', '/refunds'].map(p => ask(p)))
  const rows = orders.items.map(order => {
    const row = document.createElement('tr')
    const its = payments.items.filter(p => p.order_id === order.id)
    const pending = refunds.items.filter(r => r.status === 'pending' && its.some(p => p.id === r.payment_id))
    const open = order.status !== 'paid' && !its.some(p => p.status === 'authorized')
    cell(row, order.receipt || '')
    cell(row, '₹' + (order.amount / 100).toFixed(2))
    cell(row, order.status)
    cell(row, its.map(p => p.id + ' ' + p.status).join(', '))
    cell(row,
      ...(open ? ['captured', 'authorized', 'failed', 'late'].map(o =>
        button({ captured: 'Pay', authorized: 'Authorize', failed: 'Fail', late: 'Fail, then pay' }[o], '/pay',
          { order_id: order.id, outcome: o })) : []),
      ...its.filter(p => p.status === 'authorized').map(p => button('Capture', `/payments/${p.id}/late`, {})),
      ...pending.flatMap(r => ['processed', 'failed'].map(s =>
        button('Refund ' + s, '/refunds/' + r.id, { status: s }))))
    return row
  })
  $('orders').replaceChildren(...rows)
  if (!rows.length) $('said').textContent = 'None yet: place an order in the shop and open its payment.'
}
show()
</script></html>
]]

local routes = app.routes()
routes:get("/", { summary = "Orders, and buttons to pay them" }, function()
  return 200, PAGE, { ["Content-Type"] = "text/html; charset=utf-8" }
end)
return routes
