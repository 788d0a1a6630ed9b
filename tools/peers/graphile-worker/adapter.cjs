// Runs echo jobs on graphile-worker. It keeps no results: a probed job tells its own over NOTIFY.
'use strict';

const { makeWorkerUtils } = require('graphile-worker');
const { Client } = require('pg');
const peer = require('peer.cjs');

const CHUNK = 1000;
const connectionString = process.env.PEER_POSTGRES_URL;
const waiting = new Map();

async function start() {
  const utils = await makeWorkerUtils({ connectionString });
  await utils.migrate();
  const listener = new Client({ connectionString });
  await listener.connect();
  listener.on('notification', ({ payload }) => {
    const answer = JSON.parse(payload);
    waiting.get(answer.number)?.(answer);
    waiting.delete(answer.number);
  });
  await listener.query('LISTEN peer_results');

  const submit = async (messages) => {
    for (let first = 0; first < messages.length; first += CHUNK) {
      await utils.addJobs(messages.slice(first, first + CHUNK).map((payload) => ({ identifier: 'echo', payload })));
    }
  };
  const run = async (message) => {
    const answer = new Promise((resolve) => waiting.set(message.number, resolve));
    await utils.addJob('echo', { ...message, tell: true });
    return answer;
  };
  const children = peer.workers(require.resolve('./worker.cjs'), peer.options.processes);
  await peer.serve(peer.versions('graphile-worker', 'pg'), children, submit, run);
}

start();
