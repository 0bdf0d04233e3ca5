import rateLimit from '@fastify/rate-limit';
import Fastify from 'fastify';
import * as work from './work.js';

const app = Fastify({ logger: false });
// A response schema is how Fastify's users make it fast.
const object = (properties) => ({ type: 'object', properties });
const body = (properties, status = 200) => ({ schema: { response: { [status]: object(properties) } } });
const string = { type: 'string' }, integer = { type: 'integer' };
app.get('/json', body({ message: string, ok: { type: 'boolean' }, n: integer, items: { type: 'array', items: integer },
  shop: object({ name: string, city: string }) }), async () => work.message());
app.get('/cached/:id', async (req, reply) => {
  const text = await work.cachedProduct(req.params.id);
  reply.header('content-type', 'application/json');
  return text;
});
app.get('/products/:id', body({ id: integer, slug: string, name: string, description: string, price_paise: integer,
  is_active: { type: 'boolean' }, created_at: string }), async (req, reply) => {
  const row = await work.product(req.params.id);
  return row ?? reply.code(404).send({ error: 'not found' });
});
app.get('/list', body({ items: { type: 'array', items: object({ id: integer, slug: string, name: string, price_paise: integer }) } }),
  async (req) => ({ items: await work.list(req.query.after ?? 0) }));
const placed = body({ number: string, total_paise: integer }, 201);
app.post('/orders', placed, async (req, reply) => reply.code(201).send(await work.order(req.body)));
app.post('/orders-once', placed, async (req, reply) => {
  const answer = await work.orderOnce(req.headers['idempotency-key'], req.body);
  return answer ? reply.code(201).send(answer) : reply.code(422).send({ error: 'key reused' });
});
app.get('/number', body({ number: string }), async () => work.number());
app.post('/verify', body({ status: string }),
  async (req, reply) => (await work.verify(req.body)) ?? reply.code(400).send({ error: 'bad_signature' }));
const limited = (path, options) => app.register(async (scope) => {
  await scope.register(rateLimit, { global: false, ...options });
  scope.get(path, { config: { rateLimit: { max: 1e9, timeWindow: '15 minutes' } } }, async () => 'ok');
});
limited('/limited', {});
limited('/limited-redis', { redis: work.redis });
await app.listen({ port: Number(process.env.PORT), host: '127.0.0.1' });
