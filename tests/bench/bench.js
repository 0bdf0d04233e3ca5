// Times chowk and its peers on the same jobs, in turn, on the same private PostgreSQL and Redis: for each job, several rounds,
// each round one wrk run per contestant one after the other, so that a ratio compares neighbours in time. Prints rps, p50, p99,
// server CPU µs per request, peak memory and the ratios (median of the rounds' ratios), and writes RESULTS.md.
//
//   node bench.js [--jobs json,product] [--only chowk,fastify] [--rounds 5] [--seconds 4] [--write]
//
// The environment says the same: JOBS="list order" PEERS="chowk fastify" ROUNDS=3 DURATION=2. Without a choice of jobs or peers
// the results are written.
import { execFileSync, spawn } from 'node:child_process';
import crypto from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { REDIS_SOCKET, SECRET, reloadEachSecond, start, stop, usage } from './contestants.js';
import { idle } from './idle.js';
import { limits } from './limits.js';

const here = import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname);
const { env } = process;
const { values: opt } = parseArgs({ options: {
  jobs: { type: 'string', default: env.JOBS }, only: { type: 'string', default: env.PEERS },
  rounds: { type: 'string', default: env.ROUNDS || '5' }, seconds: { type: 'string', default: env.DURATION || '4' },
  connections: { type: 'string', default: '64' }, write: { type: 'boolean', default: false } } });
const listOf = (text) => (text ?? '').split(/[\s,]+/).filter(Boolean);
const rounds = Number(opt.rounds), seconds = Number(opt.seconds);
const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'chowk-bench.'));
const psql = (db, ...args) => execFileSync('psql', [`postgresql:///${db}?host=${env.TEST_PG_DIR}&user=chowk`, '-XqAt', '-v', 'ON_ERROR_STOP=1', ...args]);
const median = (list) => [...list].sort((a, b) => a - b)[Math.floor((list.length - 1) / 2)];

// ---- the jobs: path for a GET, or a wrk script; which contestants can do it ----------------------------------
const OWN_JSON = 'chowk, json', IN_REDIS = 'chowk, redis', RELOADING = 'chowk, reloading';
const PEERS = ['fastify', 'express'];
const jobs = {
  json: { script: 'json', who: ['chowk', 'nginx', ...PEERS] },
  static: { path: '/static', who: ['nginx'] },
  cached: { script: 'cached', who: ['chowk', 'nginx', ...PEERS] },
  l1: { script: 'l1', who: ['chowk', OWN_JSON] }, // a hit in shared memory, beside our own JSON job
  product: { script: 'product', who: ['chowk', ...PEERS] },
  list: { script: 'list', who: ['chowk', ...PEERS] },
  order: { script: 'order', who: ['chowk', ...PEERS] },
  once: { script: 'once', who: ['chowk', ...PEERS] }, // an order under an Idempotency-Key
  verify: { script: 'verify', who: ['chowk', ...PEERS] },
  number: { path: '/number', who: ['chowk', ...PEERS] },
  limit: { path: '/limited', who: ['chowk', ...PEERS] },
  limit_redis: { path: '/limited-redis', who: [IN_REDIS, ...PEERS] },
  reload: { script: 'json', who: ['chowk', RELOADING] },
  idle: { who: ['chowk', 'nginx', ...PEERS] }, // memory, not time: a table of its own
};
// Contestants that are a known one otherwise: another job, another path, reloads meanwhile.
const variants = { [OWN_JSON]: { server: 'chowk', job: 'json' }, [IN_REDIS]: { path: '/limited' }, [RELOADING]: { server: 'chowk', reloads: true } };

// ---- one measurement -------------------------------------------------------------------------------------------
async function wrk(wanted, name, port, seconds) {
  const job = jobs[variants[name]?.job ?? wanted];
  const script = path.join(dir, wanted + '.lua');
  const head = job.script ? fs.readFileSync(path.join(here, 'wrk', job.script + '.lua'), 'utf8') : '';
  fs.writeFileSync(script, head + fs.readFileSync(path.join(here, 'wrk/report.lua'), 'utf8'));
  const url = `http://127.0.0.1:${port}${variants[name]?.path ?? job.path ?? '/'}`;
  const child = spawn('wrk', ['-t1', `-c${opt.connections}`, `-d${seconds}s`, '--timeout', '10s', '-s', script, url],
    { env: { ...env, BENCH_BODIES: path.join(dir, 'bodies') } });
  let out = '';
  child.stdout.on('data', (d) => { out += d; });
  await new Promise((resolve) => child.on('close', resolve));
  const m = /RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)/.exec(out);
  if (!m) throw new Error('wrk said:\n' + out);
  const [requests, us, p50, p99, bad, broken] = m.slice(1).map(Number);
  return { requests, rps: requests / (us / 1e6), p50, p99, bad, broken };
}

async function measure(job, name, server) {
  await wrk(job, name, server.port, 1); // warm: JIT, prepared statements, pools
  const before = usage(server);
  const endReloads = variants[name]?.reloads ? reloadEachSecond(server) : () => {};
  const r = await wrk(job, name, server.port, seconds);
  endReloads();
  const after = usage(server);
  return { ...r, cpu: ((after.cpu - before.cpu) * 1e6) / r.requests, peak: after.peak };
}

// ---- one run -----------------------------------------------------------------------------------------------------
function prepare() {
  const db = 'chowk_bench';
  psql('postgres', '-c', `DROP DATABASE IF EXISTS ${db} WITH (FORCE)`, '-c', `CREATE DATABASE ${db}`);
  psql(db, '-f', path.join(here, 'schema.sql'));
  const migration = fs.readFileSync(path.join(here, '../../migrations/0009_idempotency.sql'), 'utf8');
  psql(db, '-c', /CREATE FUNCTION idempotency_claim[^]*\$\$;/.exec(migration)[0]);
  const product = (i) => JSON.stringify({ id: i, slug: `product-${i}`, name: `Product ${i}`, description: 'A fine cotton tee with a good print. '.repeat(5), price_paise: 19900 + i * 100 });
  const mset = Array.from({ length: 1000 }, (_, i) => `SET product:${i + 1} '${product(i + 1)}'`).join('\n');
  execFileSync('redis-cli', ['-s', REDIS_SOCKET], { input: 'FLUSHALL\n' + mset + '\n' });
  const bodies = Array.from({ length: 5000 }, (_, i) => {
    const order = 'order_' + String(i + 1).padStart(14, '0'), payment = 'pay_' + String(i + 1).padStart(14, '0');
    return JSON.stringify({ razorpay_order_id: order, razorpay_payment_id: payment,
      razorpay_signature: crypto.createHmac('sha256', SECRET).update(order + '|' + payment).digest('hex') });
  });
  fs.writeFileSync(path.join(dir, 'bodies'), bodies.join('\n') + '\n');
  return db;
}

// ours: the rounds of the first contestant, when that is chowk and not this one
function row(job, name, own, ours) {
  const of = (key) => median(own.map((r) => r[key]));
  const ratio = (key) => ours ? median(own.map((r, i) => ours[i][key] / r[key])).toFixed(2) + ' ×' : '';
  const failed = own.reduce((sum, r) => sum + r.bad + r.broken, 0);
  return [job, name, Math.round(of('rps')), (of('p50') / 1000).toFixed(2), (of('p99') / 1000).toFixed(2), of('cpu').toFixed(1),
    (of('peak') / 1024).toFixed(0), ratio('rps'), ratio('cpu'), failed];
}

const HEAD = ['job', 'server', 'requests/s', 'p50 ms', 'p99 ms', 'CPU µs/request', 'peak MiB', 'chowk is', 'its CPU', 'failed'];
const IDLE_HEAD = ['server', 'connections', 'MiB before', 'MiB with them', 'KiB each'];
const line = (cells, head = HEAD) => '| ' + cells.map((c, i) => String(c)[i < 2 ? 'padEnd' : 'padStart'](Math.max(head[i].length, 8))).join(' | ') + ' |';
const tableOf = (head, rows) => `${line(head, head)}\n|${head.map(() => '---').join('|')}|\n${rows.map((r) => line(r, head)).join('\n')}\n`;

const db = prepare();
const chosen = listOf(opt.jobs).length > 0 ? listOf(opt.jobs) : Object.keys(jobs);
for (const job of chosen) if (!jobs[job]) throw new Error(`no job "${job}": there are ${Object.keys(jobs).join(', ')}`);
const only = listOf(opt.only);
const whoOf = (job) => jobs[job].who.filter((n) => only.length === 0 || only.includes(n.split(',')[0]));
const serverOf = (name) => variants[name]?.server ?? name;
const timed = chosen.filter((job) => job !== 'idle');
const writes = opt.write || (listOf(opt.jobs).length === 0 && only.length === 0);
const servers = {}, table = [], idleTable = [];
let physical = [], nDone = 0;
const nAll = timed.reduce((n, job) => n + rounds * whoOf(job).length, 0);

function progress(job, round, name, r) {
  nDone += 1;
  const left = Math.ceil(((nAll - nDone) * (seconds + 1.5)) / 60);
  const failed = r.bad + r.broken > 0 ? `, ${r.bad + r.broken} FAILED` : '';
  process.stderr.write(`  ${nDone}/${nAll} ${job} ${round + 1}/${rounds} ${name}: ${Math.round(r.rps)}/s${failed}, about ${left} min left\n`);
}

async function time(job) {
  const who = whoOf(job), results = Object.fromEntries(who.map((n) => [n, []]));
  for (let i = 0; i < rounds; i++) {
    for (const name of who) {
      results[name].push(await measure(job, name, servers[serverOf(name)]));
      progress(job, i, name, results[name].at(-1));
    }
  }
  for (const name of who) {
    table.push(row(job, name, results[name], name !== who[0] && who[0].startsWith('chowk') ? results[who[0]] : null));
    console.log(line(table.at(-1)));
  }
}

async function weighIdle() { // fresh servers: what earlier jobs left in their heaps would hide the growth
  for (const name of whoOf('idle')) {
    const server = servers.idle = await start(name, db, fs.mkdtempSync(path.join(dir, 'idle-')));
    const { n, before, after } = await idle(server);
    await stop(server);
    idleTable.push([name, n, (before / 1024).toFixed(1), (after / 1024).toFixed(1), ((after - before) / n).toFixed(2)]);
    console.log(line(idleTable.at(-1), IDLE_HEAD));
  }
}

try {
  for (const name of new Set(timed.flatMap(whoOf).map(serverOf))) servers[name] = await start(name, db, dir);
  if (writes) {
    physical = limits({ db, dir, seconds, redisSocket: REDIS_SOCKET });
    for (const [what, rate] of physical) console.log(`${String(rate).padStart(8)}/s  ${what}`);
  }
  if (timed.length > 0) console.log(line(HEAD));
  for (const job of timed) await time(job);
  if (chosen.includes('idle')) {
    console.log(line(IDLE_HEAD, IDLE_HEAD));
    await weighIdle();
  }
} finally {
  for (const server of Object.values(servers)) server.child.kill('SIGTERM');
}
if (writes) {
  const machine = `${os.cpus().length} × ${os.cpus()[0].model.trim()}, ${Math.round(os.totalmem() / 2 ** 30)} GiB, Linux ${os.release()}`;
  fs.writeFileSync(path.join(here, 'RESULTS.md'), `# chowk beside its peers

${new Date().toISOString().slice(0, 10)} · ${machine} · one server process each, wrk -t1 -c${opt.connections}, ${rounds} rounds of ${seconds} s each after 1 s of warming, medians.
"chowk is" = chowk's requests/s over this server's, median of the rounds' ratios, each taken from neighbouring runs; "its CPU" = chowk's CPU per request over this server's.
Taken with \`make bench\`; the machine is shared, so read the ratios. README.md says what each job is.

${tableOf(HEAD, table)}
## Idle keep-alive connections

Each was answered once. Proportional memory of all processes of a server that was started for this; what nginx preallocates is in "before".

${tableOf(IDLE_HEAD, idleTable)}
## What the machine gives

The same run, the tools that PostgreSQL and Redis ship (nginx \`return 200\` is the job "static" above):

| limit | per second |
|---|---|
${physical.map(([what, rate]) => `| ${what} | ${rate} |`).join('\n')}
`);
}
fs.rmSync(dir, { recursive: true });
process.exit(0);
