// The servers that are compared: how each is started, and what a running one uses.
import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';

const here = import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname);
export const SECRET = 'development_key_secret';
export const REDIS_SOCKET = process.env.TEST_REDIS_SOCKET;
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const freePort = () => new Promise((resolve) => {
  const probe = net.createServer().listen(0, '127.0.0.1', () => { const { port } = probe.address(); probe.close(() => resolve(port)); });
});

// chowk's state (var/, its control socket) goes beside a copy, so that two of it can run.
function chowkCopy(dir, name) {
  const copy = path.join(dir, name.replace(/\W+/g, '-'));
  fs.cpSync(path.join(here, 'chowk'), copy, { recursive: true });
  return copy;
}

function nginxConf(dir, port) {
  const conf = path.join(dir, 'nginx.conf');
  const values = { '@DIR@': dir, '@PORT@': port, '@REDIS@': REDIS_SOCKET };
  fs.writeFileSync(conf, fs.readFileSync(path.join(here, 'peers/nginx.conf'), 'utf8').replace(/@\w+@/g, (k) => values[k]));
  return conf;
}

function run(name, db, port, dir) {
  const env = { ...process.env, BENCH_DB: db, BENCH_SECRET: SECRET, PORT: String(port), NODE_ENV: 'production', LIMITS: 'on',
    BENCH_LIMIT_STORE: name.includes('redis') ? 'redis' : 'memory', CHOWK_ADMIN_LISTEN: 'off',
    DATABASE_URL: `postgresql:///${db}?host=${process.env.TEST_PG_DIR}&user=chowk`, REDIS_URL: `unix://${REDIS_SOCKET}` };
  const log = fs.openSync(path.join(dir, name + '.log'), 'a');
  const start = (cmd, args, cwd) => ({ cwd, child: spawn(cmd, args, { env, cwd, stdio: ['ignore', log, log] }) });
  if (name.startsWith('chowk')) return start(process.env.CHOWK, ['serve'], chowkCopy(dir, name));
  if (name === 'nginx') return start('/usr/sbin/nginx', ['-e', path.join(dir, 'nginx.log'), '-c', nginxConf(dir, port), '-p', dir], dir);
  return start('node', [name + '.js'], path.join(here, 'peers'));
}

// → { port, child, cwd }, serving
export async function start(name, db, dir) {
  const port = await freePort();
  const server = { port, ...run(name, db, port, dir) };
  for (let i = 0; i < 600 && server.child.exitCode === null; i++) {
    const ok = await new Promise((resolve) => {
      const c = net.connect(port, '127.0.0.1', () => { c.destroy(); resolve(true); }).on('error', () => resolve(false));
    });
    if (ok) return server;
    await sleep(50);
  }
  throw new Error(`${name} did not start:\n` + fs.readFileSync(path.join(dir, name + '.log'), 'utf8'));
}

export async function stop(server) {
  if (server.child.exitCode !== null) return;
  const ended = new Promise((resolve) => server.child.once('exit', resolve));
  server.child.kill('SIGTERM');
  await ended;
}

// Calls `chowk reload` in the server's directory each second until the function it returns is called.
export function reloadEachSecond(server) {
  let failure = null;
  const timer = setInterval(() => {
    spawn(process.env.CHOWK, ['reload'], { cwd: server.cwd, stdio: 'ignore' })
      .on('exit', (code) => { if (code !== 0) failure = new Error(`chowk reload ended with ${code}`); });
  }, 1000);
  return () => { clearInterval(timer); if (failure) throw failure; };
}

// A process and all its descendants: nginx and chowk have a master.
function family(pid) {
  const kids = fs.readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean);
  return [pid, ...kids.flatMap((kid) => family(Number(kid)))];
}
const kib = (text, name) => Number(new RegExp(name + ':\\s+(\\d+)').exec(text)?.[1] ?? 0);
function each(server, fn) { // one that ends meanwhile (a checker of a reload) does not count
  return family(server.child.pid).reduce((sum, pid) => { try { return sum + fn(`/proc/${pid}/`); } catch { return sum; } }, 0);
}
// CPU seconds so far, and the peak of resident memory in KiB.
export const usage = (server) => ({
  cpu: each(server, (proc) => {
    const fields = fs.readFileSync(proc + 'stat', 'utf8').replace(/.*\) /, '').split(' ');
    return (Number(fields[11]) + Number(fields[12])) / 100;
  }),
  peak: each(server, (proc) => kib(fs.readFileSync(proc + 'status', 'utf8'), 'VmHWM')),
});
// What it has in memory now, shared pages by share, in KiB.
export const memory = (server) => each(server, (proc) => kib(fs.readFileSync(proc + 'smaps_rollup', 'utf8'), 'Pss'));

export const maxOpenFiles = () => Number(execFileSync('sh', ['-c', 'ulimit -n'], { encoding: 'utf8' }));
