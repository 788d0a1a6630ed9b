// Runs echo jobs on BullMQ.
'use strict';

const { Queue, QueueEvents } = require('bullmq');
const peer = require('peer.cjs');

const CHUNK = 1000;
const RESULT_WITHIN_MS = 30_000;

const connection = { url: process.env.PEER_REDIS_URL };
const queue = new Queue('jobs', { connection, defaultJobOptions: peer.options.job });
const events = new QueueEvents('jobs', { connection });

async function submit(messages) {
  for (let first = 0; first < messages.length; first += CHUNK) {
    await queue.addBulk(messages.slice(first, first + CHUNK).map((data) => ({ name: 'echo', data })));
  }
}

const run = async (message) => (await queue.add('echo', message)).waitUntilFinished(events, RESULT_WITHIN_MS);

const children = peer.workers(require.resolve('./worker.cjs'), peer.options.processes);
events.waitUntilReady().then(() => peer.serve(peer.versions('bullmq', 'ioredis'), children, submit, run));
