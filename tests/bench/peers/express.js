import express from 'express';
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
app.post('/verify', async (req, res) => {
  const result = await work.verify(req.body);
  result ? res.json(result) : res.status(400).json({ error: 'bad_signature' });
});
app.listen(Number(process.env.PORT), '127.0.0.1');
