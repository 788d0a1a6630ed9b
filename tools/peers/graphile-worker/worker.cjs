// A worker of graphile-worker.
'use strict';

const { Logger, run } = require('graphile-worker');
const peer = require('peer.cjs');

const silent = new Logger(() => (level, message) => level === 'error' && process.stderr.write(`${message}\n`));

const echo = async ({ tell, ...message }, { query }) => {
  peer.done(message.number);
  if (tell) await query("SELECT pg_notify('peer_results', $1)", [JSON.stringify(message)]);
};
const preset = { worker: { connectionString: process.env.PEER_POSTGRES_URL, ...peer.options.worker } };

run({ preset, taskList: { echo }, logger: silent, noHandleSignals: true }).then((runner) => {
  process.once('SIGTERM', () => runner.stop().then(() => process.exit(0)));
});
process.once('disconnect', () => process.exit(1));
