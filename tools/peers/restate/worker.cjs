// An endpoint of Restate: the process in which its server has jobs executed.
'use strict';

// As it comes it writes two lines for each job, which would be measured, too.
process.env.RESTATE_LOGGING = 'WARN';
// The SDK expects it, and Node.js has it from version 22 on.
Promise.withResolvers ??= function withResolvers() {
  const deferred = {};
  deferred.promise = new this((resolve, reject) => Object.assign(deferred, { resolve, reject }));
  return deferred;
};

const restate = require('@restatedev/restate-sdk');
const peer = require('peer.cjs');

process.once('disconnect', () => process.exit(1));
process.once('SIGTERM', () => process.exit(0));

const echo = restate.service({
  name: 'Jobs',
  handlers: {
    echo: async (_context, message) => {
      peer.done(message.number);
      return message;
    },
  },
});
restate.serve({ services: [echo], port: 0 }).then((port) => process.send({ port }));
