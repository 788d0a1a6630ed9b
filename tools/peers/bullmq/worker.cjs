// A worker of BullMQ.
'use strict';

const { Worker } = require('bullmq');
const peer = require('peer.cjs');

process.once('disconnect', () => process.exit(1));

const echo = async (job) => {
  peer.done(job.data.number);
  return job.data;
};
const worker = new Worker('jobs', echo, {
  connection: { url: process.env.PEER_REDIS_URL },
  concurrency: peer.options.concurrency,
});
process.once('SIGTERM', () => worker.close().then(() => process.exit(0)));
