// The physical limits beside the contestants: what PostgreSQL, Redis and a server that does nothing reach on this machine with
// the tools their makers ship. One core of client, as wrk has.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

const SELECT = 'SELECT id, slug, name, description, price_paise, is_active, created_at FROM products WHERE id = :id;\n';
const VERIFY = `BEGIN;
SELECT status FROM payments WHERE razorpay_order_id = 'order_' || lpad(:id::text, 14, '0') FOR UPDATE;
UPDATE payments SET status = 'paid', verified = verified + 1 WHERE razorpay_order_id = 'order_' || lpad(:id::text, 14, '0');
COMMIT;
`;
const BATCH = 16;

export function limits({ db, dir, seconds, redisSocket }) {
  const pgbench = (name, text, max, clients) => {
    const file = path.join(dir, name + '.sql');
    fs.writeFileSync(file, `\\set id random(1, ${max})\n` + text);
    const out = execFileSync('pgbench', ['-n', '-M', 'prepared', '-f', file, '-c', String(clients), '-j', '1', '-T', String(seconds),
      `postgresql:///${db}?host=${process.env.TEST_PG_DIR}&user=chowk`], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    return Number(/tps = ([\d.]+)/.exec(out)[1]);
  };
  const pipelined = (text) => '\\startpipeline\n' + text + '\\endpipeline\n';
  const redis = execFileSync('redis-benchmark', ['-s', redisSocket, '-t', 'get', '-n', '400000', '-c', '16', '-P', String(BATCH), '--csv'],
    { encoding: 'utf8' });
  return [
    ['pgbench -M prepared, a product by id, 16 clients, one query a round trip', pgbench('select', SELECT, 1000, 16)],
    [`the same, ${BATCH} queries a pipeline, 2 clients`, BATCH * pgbench('select-pipeline', pipelined(SELECT.repeat(BATCH)), 1000, 2)],
    ['pgbench, payment verification in one pipeline, 24 clients, durable', pgbench('verify', pipelined(VERIFY), 5000, 24)],
    [`redis-benchmark -P ${BATCH}, GET`, Number(/"GET","([\d.]+)"/.exec(redis)[1])],
  ].map(([what, rate]) => [what, Math.round(rate)]);
}
