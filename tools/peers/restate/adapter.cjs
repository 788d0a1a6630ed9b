// Runs echo jobs on Restate: a server of its own as a child, and an endpoint that executes them.
'use strict';

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const net = require('node:net');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const clients = require('@restatedev/restate-sdk-clients');
const peer = require('peer.cjs');

const READY_WITHIN_MS = 50_000;
const LOOK_EVERY_MS = 50;
// npm chooses the package that has the program for this machine.
const program = require.resolve(`@restatedev/restate-server-${process.platform}-${process.arch}/bin/restate-server`);

async function freePort() {
  const listener = net.createServer().listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address();
  listener.close();
  await once(listener, 'close');
  return String(port);
}

async function startServer() {
  const [fabric, admin, ingress] = [await freePort(), await freePort(), await freePort()];
  const env = {
    ...process.env,
    ...peer.options.server,
    RESTATE_BASE_DIR: path.join(process.env.PEER_DIR, 'restate'),
    RESTATE_LISTEN_MODE: 'tcp',
    RESTATE_BIND_IP: '127.0.0.1',
    RESTATE_BIND_PORT: fabric,
    RESTATE_ADMIN__BIND_PORT: admin,
    RESTATE_INGRESS__BIND_PORT: ingress,
    RESTATE_ADVERTISED_HOST: '127.0.0.1',
    RESTATE_LOG_FILTER: 'warn',
    // It would tell its makers of every start.
    RESTATE_DISABLE_TELEMETRY: 'true',
    DO_NOT_TRACK: '1',
  };
  const server = spawn(program, ['--no-logo'], { env, stdio: ['ignore', 2, 2] });
  process.once('exit', () => server.kill('SIGKILL'));
  return { server, admin: `http://127.0.0.1:${admin}`, ingress: `http://127.0.0.1:${ingress}` };
}

// Tells the server of the endpoint, as soon as it listens.
async function register(admin, port) {
  const body = JSON.stringify({ uri: `http://127.0.0.1:${port}` });
  const deadline = Date.now() + READY_WITHIN_MS;
  for (;;) {
    const answer = await fetch(`${admin}/deployments`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    }).catch((error) => ({ ok: false, text: () => String(error) }));
    if (answer.ok) return;
    if (Date.now() > deadline) throw new Error(`the endpoint cannot be registered: ${await answer.text()}`);
    await sleep(LOOK_EVERY_MS);
  }
}

async function main() {
  const children = peer.workers(require.resolve('./worker.cjs'), 1);
  const [{ port }] = await once(children[0], 'message');
  const { server, admin, ingress } = await startServer();
  await register(admin, port);
  const connection = clients.connect({ url: ingress });
  const sender = connection.serviceSendClient({ name: 'Jobs' });
  const caller = connection.serviceClient({ name: 'Jobs' });

  async function submit(messages) {
    let next = 0;
    const sendSome = async () => {
      while (next < messages.length) await sender.echo(messages[next++]);
    };
    await Promise.all(Array.from({ length: peer.options.at_once }, sendSome));
  }

  const run = (message) => caller.echo(message);
  const says = peer.versions('@restatedev/restate-server', '@restatedev/restate-sdk');
  await peer.serve(says, [...children, server], submit, run);
}

main();
