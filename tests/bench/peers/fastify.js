import Fastify from 'fastify';
import * as work from './work.js';

const app = Fastify({ logger: false });
// A response schema is how Fastify's users make it fast.
const body = (properties) => ({ schema: { response: { 200: { type: 'object', properties } } } });
const string = { type: 'string' }, integer = { type: 'integer' };
app.get('/json', body({ message: string, ok: { type: 'boolean' }, n: integer, items: { type: 'array', items: integer },
  shop: { type: 'object', properties: { name: string, city: string } } }), async () => work.message());
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
app.get('/list', async (req) => ({ items: await work.list(req.query.after ?? 0) }));
app.post('/orders', async (req, reply) => reply.code(201).send(await work.order(req.body)));
app.post('/verify', async (req, reply) => (await work.verify(req.body)) ?? reply.code(400).send({ error: 'bad_signature' }));
await app.listen({ port: Number(process.env.PORT), host: '127.0.0.1' });
