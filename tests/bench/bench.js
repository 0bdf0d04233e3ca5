// Times chowk and its peers on the same jobs, in turn, on the same private PostgreSQL and Redis: for each job, several rounds,
// each round one wrk run per contestant one after the other, so that a ratio compares neighbours in time. Prints rps, p50, p99,
// server CPU µs per request, peak memory and the ratios (median of the rounds' ratios), and writes RESULTS.md.
//
//   node bench.js [--jobs json,product] [--rounds 5] [--seconds 4] [--write]
import { execFileSync, spawn } from 'node:child_process';
import crypto from 'node:crypto';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { limits } from './limits.js';

const here = import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname);
const { values: opt } = parseArgs({ options: {
  jobs: { type: 'string', default: 'json,static,cached,l1,product,list,order,verify' }, rounds: { type: 'string', default: '5' },
  seconds: { type: 'string', default: '4' }, connections: { type: 'string', default: '64' }, write: { type: 'boolean', default: false },
  only: { type: 'string' } } });
const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'chowk-bench.'));
const SECRET = 'development_key_secret';
const redisSocket = process.env.TEST_REDIS_SOCKET;
const psql = (db, ...args) => execFileSync('psql', [`postgresql:///${db}?host=${process.env.TEST_PG_DIR}&user=chowk`, '-XqAt', '-v', 'ON_ERROR_STOP=1', ...args]);
const median = (list) => [...list].sort((a, b) => a - b)[Math.floor((list.length - 1) / 2)];
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// ---- the jobs: path for a GET, or a wrk script; which contestants can do it ----------------------------------
const OWN_JSON = 'our json';
const jobs = {
  json: { path: '/json', who: ['chowk', 'nginx', 'fastify', 'express'] },
  static: { path: '/static', who: ['nginx'] },
  cached: { script: 'cached', who: ['chowk', 'nginx', 'fastify', 'express'] },
  l1: { script: 'l1', who: ['chowk', OWN_JSON] }, // a hit in shared memory, beside our own JSON job
  product: { script: 'product', who: ['chowk', 'fastify', 'express'] },
  list: { script: 'list', who: ['chowk', 'fastify', 'express'] },
  order: { script: 'order', who: ['chowk', 'fastify', 'express'] },
  verify: { script: 'verify', who: ['chowk', 'fastify', 'express'] },
};

// ---- the contestants -------------------------------------------------------------------------------------------
const freePort = () => new Promise((resolve) => {
  const probe = net.createServer().listen(0, '127.0.0.1', () => { const { port } = probe.address(); probe.close(() => resolve(port)); });
});

function start(name, db, port) {
  const env = { ...process.env, BENCH_DB: db, BENCH_SECRET: SECRET, PORT: String(port), NODE_ENV: 'production', LIMITS: 'off',
    DATABASE_URL: `postgresql:///${db}?host=${process.env.TEST_PG_DIR}&user=chowk`, REDIS_URL: `unix://${redisSocket}` };
  const log = fs.openSync(path.join(dir, name + '.log'), 'a');
  const run = (cmd, args, cwd) => spawn(cmd, args, { env, cwd, stdio: ['ignore', log, log] });
  if (name === 'chowk') return run(process.env.CHOWK, ['serve'], path.join(here, 'chowk'));
  if (name !== 'nginx') return run('node', [name + '.js'], path.join(here, 'peers'));
  const conf = path.join(dir, 'nginx.conf');
  const names = { '@DIR@': dir, '@PORT@': port, '@REDIS@': redisSocket };
  fs.writeFileSync(conf, fs.readFileSync(path.join(here, 'peers/nginx.conf'), 'utf8').replace(/@\w+@/g, (k) => names[k]));
  return run('/usr/sbin/nginx', ['-e', path.join(dir, 'nginx.log'), '-c', conf, '-p', dir], dir);
}

async function ready(port, child, name) {
  for (let i = 0; i < 300 && child.exitCode === null; i++) {
    const ok = await new Promise((resolve) => {
      const c = net.connect(port, '127.0.0.1', () => { c.destroy(); resolve(true); }).on('error', () => resolve(false));
    });
    if (ok) return;
    await sleep(50);
  }
  throw new Error(`${name} did not start:\n` + fs.readFileSync(path.join(dir, name + '.log'), 'utf8'));
}

// CPU and memory of a process and all its descendants (nginx and chowk have a master).
function family(pid) {
  const kids = fs.readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean);
  return [pid, ...kids.flatMap((kid) => family(Number(kid)))];
}
function usage(pid) {
  let ticks = 0, peak = 0;
  for (const p of family(pid)) {
    const fields = fs.readFileSync(`/proc/${p}/stat`, 'utf8').replace(/.*\) /, '').split(' ');
    ticks += Number(fields[11]) + Number(fields[12]);
    peak += Number(/VmHWM:\s+(\d+)/.exec(fs.readFileSync(`/proc/${p}/status`, 'utf8'))?.[1] ?? 0);
  }
  return { cpu: ticks / 100, peak };
}

async function wrk(wanted, name, port, seconds) {
  const job = name === OWN_JSON ? 'json' : wanted;
  const script = path.join(dir, job + '.lua');
  const head = jobs[job].script ? fs.readFileSync(path.join(here, 'wrk', jobs[job].script + '.lua'), 'utf8') : '';
  fs.writeFileSync(script, head + fs.readFileSync(path.join(here, 'wrk/report.lua'), 'utf8'));
  const env = { ...process.env, BENCH_BODIES: path.join(dir, 'bodies') };
  const child = spawn('wrk', ['-t1', `-c${opt.connections}`, `-d${seconds}s`, '-s', script, `http://127.0.0.1:${port}${jobs[job].path ?? '/'}`], { env });
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
  const before = usage(server.child.pid);
  const r = await wrk(job, name, server.port, Number(opt.seconds));
  const after = usage(server.child.pid);
  return { ...r, cpu: ((after.cpu - before.cpu) * 1e6) / r.requests, peak: after.peak };
}

// ---- one run -----------------------------------------------------------------------------------------------------
function prepare() {
  const db = 'chowk_bench';
  psql('postgres', '-c', `DROP DATABASE IF EXISTS ${db} WITH (FORCE)`, '-c', `CREATE DATABASE ${db}`);
  psql(db, '-f', path.join(here, 'schema.sql'));
  const product = (i) => JSON.stringify({ id: i, slug: `product-${i}`, name: `Product ${i}`, description: 'A fine cotton tee with a good print. '.repeat(5), price_paise: 19900 + i * 100 });
  const mset = Array.from({ length: 1000 }, (_, i) => `SET product:${i + 1} '${product(i + 1)}'`).join('\n');
  execFileSync('redis-cli', ['-s', redisSocket], { input: 'FLUSHALL\n' + mset + '\n' });
  const bodies = Array.from({ length: 5000 }, (_, i) => {
    const order = 'order_' + String(i + 1).padStart(14, '0'), payment = 'pay_' + String(i + 1).padStart(14, '0');
    return JSON.stringify({ razorpay_order_id: order, razorpay_payment_id: payment,
      razorpay_signature: crypto.createHmac('sha256', SECRET).update(order + '|' + payment).digest('hex') });
  });
  fs.writeFileSync(path.join(dir, 'bodies'), bodies.join('\n') + '\n');
  return db;
}

function row(job, name, rounds, ours) {
  const of = (key) => median(rounds.map((r) => r[key]));
  const ratio = name === 'chowk' || ours.length === 0 ? '' : median(rounds.map((r, i) => ours[i].rps / r.rps)).toFixed(2) + ' ×';
  const cpuRatio = name === 'chowk' || ours.length === 0 ? '' : median(rounds.map((r, i) => ours[i].cpu / r.cpu)).toFixed(2) + ' ×';
  const failed = rounds.reduce((sum, r) => sum + r.bad + r.broken, 0);
  return [job, name, Math.round(of('rps')), (of('p50') / 1000).toFixed(2), (of('p99') / 1000).toFixed(2), of('cpu').toFixed(1),
    (of('peak') / 1024).toFixed(0), ratio, cpuRatio, failed];
}

const HEAD = ['job', 'server', 'requests/s', 'p50 ms', 'p99 ms', 'CPU µs/request', 'peak MiB', 'chowk is', 'its CPU', 'failed'];
const line = (cells) => '| ' + cells.map((c, i) => String(c)[i < 2 ? 'padEnd' : 'padStart'](Math.max(HEAD[i].length, 8))).join(' | ') + ' |';

const db = prepare();
const chosen = opt.jobs.split(',');
const names = [...new Set(chosen.flatMap((j) => jobs[j].who))].filter((n) => !opt.only || opt.only.split(',').includes(n));
const servers = {};
const table = [];
let physical = [];
try {
  for (const name of names.filter((n) => n !== OWN_JSON)) {
    const port = await freePort();
    servers[name] = { port, child: start(name, db, port) };
    await ready(port, servers[name].child, name);
  }
  servers[OWN_JSON] = servers.chowk;
  if (!opt.only) {
    physical = limits({ db, dir, seconds: Number(opt.seconds), redisSocket });
    for (const [what, rate] of physical) console.log(`${String(rate).padStart(8)}/s  ${what}`);
  }
  console.log(line(HEAD));
  for (const job of chosen) {
    const who = jobs[job].who.filter((n) => names.includes(n));
    const rounds = Object.fromEntries(who.map((n) => [n, []]));
    for (let i = 0; i < Number(opt.rounds); i++)
      for (const name of who) rounds[name].push(await measure(job, name, servers[name]));
    for (const name of who) {
      table.push(row(job, name, rounds[name], rounds.chowk ?? []));
      console.log(line(table.at(-1)));
    }
  }
} finally {
  for (const server of Object.values(servers)) server?.child.kill('SIGTERM');
}
if (opt.write) {
  const machine = `${os.cpus().length} × ${os.cpus()[0].model.trim()}, ${Math.round(os.totalmem() / 2 ** 30)} GiB, Linux ${os.release()}`;
  fs.writeFileSync(path.join(here, 'RESULTS.md'), `# chowk beside its peers

${new Date().toISOString().slice(0, 10)} · ${machine} · one server process each, wrk -t1 -c${opt.connections}, ${opt.rounds} rounds of ${opt.seconds} s, medians.
"chowk is" = chowk's requests/s over this server's, median of the rounds' ratios, each taken from neighbouring runs; "its CPU" = chowk's CPU per request over this server's.
Taken with \`make bench\`; the machine is shared, so read the ratios.

${line(HEAD)}
|${HEAD.map(() => '---').join('|')}|
${table.map(line).join('\n')}

## What the machine gives

The same run, the tools that PostgreSQL and Redis ship (nginx \`return 200\` is the job "static" above):

| limit | per second |
|---|---|
${physical.map(([what, rate]) => `| ${what} | ${rate} |`).join('\n')}
`);
}
fs.rmSync(dir, { recursive: true });
process.exit(0);
