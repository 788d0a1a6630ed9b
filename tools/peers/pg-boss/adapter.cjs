// Runs echo jobs on pg-boss.
'use strict';

const PgBoss = require('pg-boss');
const peer = require('peer.cjs');

const CHUNK = 1000;
const LOOK_EVERY_MS = 2;
const QUEUE = 'echo';

async function start() {
  const boss = new PgBoss(process.env.PEER_POSTGRES_URL);
  boss.on('error', (error) => process.stderr.write(`${error.stack}\n`));
  await boss.start();
  await boss.createQueue(QUEUE);

  const submit = async (messages) => {
    for (let first = 0; first < messages.length; first += CHUNK) {
      await boss.insert(messages.slice(first, first + CHUNK).map((data) => ({ name: QUEUE, data })));
    }
  };
  // It has no call that waits for a result: whoever wants one looks.
  const run = async (message) => {
    const id = await boss.send(QUEUE, message);
    for (;;) {
      const job = await boss.getJobById(QUEUE, id);
      if (job.state === 'completed') return job.output;
      if (job.state === 'failed') throw new Error(`job ${message.number} has failed`);
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    }
  };
  const children = peer.workers(require.resolve('./worker.cjs'), 1);
  await peer.serve(peer.versions('pg-boss', 'pg'), children, submit, run);
}

start();
