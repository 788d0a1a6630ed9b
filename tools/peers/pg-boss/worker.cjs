// Workers of pg-boss, all in one process.
'use strict';

const PgBoss = require('pg-boss');
const peer = require('peer.cjs');

// A worker that takes one job hands back its result; one that takes many can hand back one value for all of them.
const echo = async (jobs) => {
  for (const { data } of jobs) peer.done(data.number);
  return jobs.length === 1 ? jobs[0].data : undefined;
};

async function start() {
  const boss = new PgBoss(process.env.PEER_POSTGRES_URL);
  boss.on('error', (error) => process.stderr.write(`${error.stack}\n`));
  await boss.start();
  for (let worker = 0; worker < peer.options.workers; worker += 1) {
    await boss.work('echo', peer.options.work, echo);
  }
  process.once('SIGTERM', () => boss.stop({ graceful: true, timeout: 5000 }).then(() => process.exit(0)));
}

start();
process.once('disconnect', () => process.exit(1));
