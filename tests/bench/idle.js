// What an idle keep-alive connection costs its server: many are opened, each is answered once, then all are silent.
import net from 'node:net';
import { maxOpenFiles, memory, sleep } from './contestants.js';

const WANTED = 10000, AT_ONCE = 200, SPARE_FILES = 300, WARM_ROUNDS = 20;
const REQUEST = 'GET /json HTTP/1.1\r\nHost: bench\r\n\r\n';

// Resolves when the head and the announced body (or the last chunk) are there.
const open = (port) => new Promise((resolve, reject) => {
  const socket = net.connect(port, '127.0.0.1');
  let text = '';
  socket.on('data', (data) => {
    text += data;
    const [head, body] = text.split('\r\n\r\n', 2);
    const length = /content-length: (\d+)/i.exec(head);
    if (body !== undefined && (length ? body.length >= Number(length[1]) : text.endsWith('0\r\n\r\n'))) resolve(socket);
  });
  socket.on('error', reject).on('close', () => reject(new Error('closed by the server')));
  socket.write(REQUEST);
});

async function openMany(port, n) {
  const sockets = [];
  while (sockets.length < n)
    sockets.push(...await Promise.all(Array.from({ length: Math.min(AT_ONCE, n - sockets.length) }, () => open(port))));
  return sockets;
}

// → { n, before, after } in KiB, of a server that has just been warmed
export async function idle(server) {
  const n = Math.min(WANTED, maxOpenFiles() - SPARE_FILES);
  for (let i = 0; i < WARM_ROUNDS; i++) // so that what grows is not code being compiled
    for (const socket of await openMany(server.port, AT_ONCE)) socket.destroy();
  await sleep(500);
  const before = memory(server);
  const sockets = await openMany(server.port, n);
  await sleep(1000);
  const closed = sockets.filter((s) => s.destroyed).length;
  const after = memory(server);
  for (const socket of sockets) socket.destroy();
  if (closed > 0) throw new Error(`${closed} of ${n} idle connections were closed`);
  return { n, before, after };
}
