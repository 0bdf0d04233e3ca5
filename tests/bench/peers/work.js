// What Express and Fastify share: their users would write the same pg, ioredis and crypto calls under either.
import crypto from 'node:crypto';
import Redis from 'ioredis';
import pg from 'pg';

pg.types.setTypeParser(20, Number); // int8 as numbers, as a shop with paise would

const url = new URL('postgresql://chowk@localhost/' + process.env.BENCH_DB);
export const pool = new pg.Pool({ host: process.env.TEST_PG_DIR, user: 'chowk', database: url.pathname.slice(1), max: 16 });
export const redis = new Redis({ path: process.env.TEST_REDIS_SOCKET, enableAutoPipelining: true });
const SECRET = process.env.BENCH_SECRET;

// Named statements are prepared once per connection: the fast path of node-postgres.
const PRODUCT = { name: 'product', text: 'SELECT id, slug, name, description, price_paise, is_active, created_at FROM products WHERE id = $1' };
const LIST = { name: 'list', text: 'SELECT id, slug, name, price_paise FROM products WHERE id > $1 ORDER BY id LIMIT 20' };
const PRICES = { name: 'prices', text: 'SELECT id, price_paise FROM products WHERE id = ANY($1)' };
const SEQUENCE = { name: 'sequence', text: "SELECT get_next_order_sequence('order', 'row') AS value" };
const NUMBER = { name: 'number', text: 'SELECT next_block(1) AS value' };
const ORDER = { name: 'order', text: 'INSERT INTO orders (number, email, total_paise) VALUES ($1, $2, $3) RETURNING id' };
const CLAIM = { name: 'claim', text: 'INSERT INTO idempotent_answers (key, fingerprint) VALUES ($1, $2) ON CONFLICT DO NOTHING' };
const KEPT = { name: 'kept', text: 'SELECT fingerprint, body FROM idempotent_answers WHERE key = $1' };
const KEEP = { name: 'keep', text: 'UPDATE idempotent_answers SET body = $2 WHERE key = $1' };
const ITEMS = { name: 'items', text: 'INSERT INTO order_items (order_id, product_id, quantity, unit_price_paise) SELECT $1, * FROM unnest($2::int[], $3::int[], $4::bigint[])' };
const LOCK = { name: 'lock', text: 'SELECT status FROM payments WHERE razorpay_order_id = $1 FOR UPDATE' };
const PAID = { name: 'paid', text: "UPDATE payments SET status = 'paid', razorpay_payment_id = $2, verified = verified + 1 WHERE razorpay_order_id = $1" };

export const message = () => ({ message: 'hello', ok: true, n: 42, items: [1, 2, 3], shop: { name: 'chowk', city: 'Delhi' } });
export const cachedProduct = (id) => redis.get('product:' + id);
export const product = async (id) => (await pool.query({ ...PRODUCT, values: [id] })).rows[0];
export const list = async (after) => (await pool.query({ ...LIST, values: [after] })).rows;

async function transaction(work) {
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    const result = await work(client);
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  } finally {
    client.release();
  }
}

const format = (value) => 'PN2627-' + String(value).padStart(9, '0');
export const number = async () => ({ number: format((await pool.query(SEQUENCE)).rows[0].value) });

async function place(db, { email, items }) {
  const ids = items.map((i) => i.id);
  const prices = new Map((await db.query({ ...PRICES, values: [ids] })).rows.map((r) => [r.id, r.price_paise]));
  const total = items.reduce((sum, i) => sum + prices.get(i.id) * i.quantity, 0);
  const number = format((await db.query(NUMBER)).rows[0].value);
  const { id } = (await db.query({ ...ORDER, values: [number, email, total] })).rows[0];
  await db.query({ ...ITEMS, values: [id, ids, items.map((i) => i.quantity), ids.map((i) => prices.get(i))] });
  return { number, total_paise: total };
}

export const order = (body) => transaction((db) => place(db, body));

// The key is claimed by its row, which a duplicate waits for and then finds with the answer.
export const orderOnce = (key, body) => transaction(async (db) => {
  const fingerprint = crypto.createHash('sha256').update(JSON.stringify(body)).digest('hex');
  if ((await db.query({ ...CLAIM, values: [key, fingerprint] })).rowCount === 0) {
    const [kept] = (await db.query({ ...KEPT, values: [key] })).rows;
    return kept.fingerprint === fingerprint ? kept.body : null;
  }
  const answer = await place(db, body);
  await db.query({ ...KEEP, values: [key, JSON.stringify(answer)] });
  return answer;
});

export async function verify(body) {
  const mac = crypto.createHmac('sha256', SECRET).update(body.razorpay_order_id + '|' + body.razorpay_payment_id).digest();
  const given = Buffer.from(body.razorpay_signature, 'hex');
  if (given.length !== mac.length || !crypto.timingSafeEqual(mac, given)) return null;
  return transaction(async (db) => {
    const { rows } = await db.query({ ...LOCK, values: [body.razorpay_order_id] });
    if (rows.length === 0) return null;
    await db.query({ ...PAID, values: [body.razorpay_order_id, body.razorpay_payment_id] });
    return { status: 'paid' };
  });
}
