import express from 'express';
import { rateLimit } from 'express-rate-limit';
import { RedisStore } from 'rate-limit-redis';
import * as work from './work.js';

const app = express();
app.disable('x-powered-by');
app.disable('etag');
app.use(express.json());
app.get('/json', (req, res) => res.json(work.message()));
app.get('/cached/:id', async (req, res) => res.type('application/json').send(await work.cachedProduct(req.params.id)));
app.get('/products/:id', async (req, res) => {
  const row = await work.product(req.params.id);
  row ? res.json(row) : res.status(404).json({ error: 'not found' });
});
app.get('/list', async (req, res) => res.json({ items: await work.list(req.query.after ?? 0) }));
app.post('/orders', async (req, res) => res.status(201).json(await work.order(req.body)));
app.post('/orders-once', async (req, res) => {
  const answer = await work.orderOnce(req.headers['idempotency-key'], req.body);
  answer ? res.status(201).json(answer) : res.status(422).json({ error: 'key reused' });
});
app.get('/number', async (req, res) => res.json(await work.number()));
const limit = { windowMs: 15 * 60 * 1000, limit: 1e9, standardHeaders: 'draft-8', legacyHeaders: false };
const inRedis = new RedisStore({ sendCommand: (command, ...args) => work.redis.call(command, ...args) });
app.get('/limited', rateLimit(limit), (req, res) => res.type('text/plain').send('ok'));
app.get('/limited-redis', rateLimit({ ...limit, store: inRedis }), (req, res) => res.type('text/plain').send('ok'));
app.post('/verify', async (req, res) => {
  const result = await work.verify(req.body);
  result ? res.json(result) : res.status(400).json({ error: 'bad_signature' });
});
const server = app.listen(Number(process.env.PORT), '127.0.0.1');
server.keepAliveTimeout = 75_000; // as behind a balancer; Node's own 5 s would close what the job "idle" counts
