// What the adapters for Node.js share: the lines that the runner speaks, the record of executions, and workers as children.
//
// README.md beside this folder tells what the lines mean.
'use strict';

const { fork } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const readline = require('node:readline');

const options = JSON.parse(process.env.PEER_OPTIONS);
const STOP_WITHIN_MS = 10_000;

// The input of a job: the same as Busbar's own.
const job = (number) => ({ number, text: 'the quick brown fox jumps over the lazy dog' });

let record;

// Writes down that a job was executed, in a file of this very process.
function done(number) {
  record ??= fs.openSync(path.join(process.env.PEER_DIR, 'done', String(process.pid)), 'a', 0o600);
  fs.writeSync(record, `${number}\n`);
}

// What was measured, in words.
function versions(...packages) {
  const named = packages.map((name) => `${name} ${require(`${name}/package.json`).version}`);
  return [...named, `Node.js ${process.versions.node}`].join(', ');
}

// Starts workers; stdout is the runner's, so that what they say goes to stderr.
function workers(file, count) {
  return Array.from({ length: count }, () => fork(file, [], { stdio: ['ignore', 2, 2, 'ipc'] }));
}

// Milliseconds of each of some jobs, one after the other; `run` must hand back what the job returned.
async function timed(first, jobs, run) {
  const milliseconds = [];
  for (let number = first; number < first + jobs; number += 1) {
    const message = job(number);
    const started = process.hrtime.bigint();
    const answer = await run(message);
    milliseconds.push(Number(process.hrtime.bigint() - started) / 1e6);
    if (answer?.number !== number || answer.text !== message.text) {
      throw new Error(`job ${number} returned ${JSON.stringify(answer)}`);
    }
  }
  return milliseconds;
}

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

// Answers the runner until its end of the pipe is closed, and ends the workers then.
async function serve(says, children, submit, run) {
  say({ ready: says });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { do: what, first, jobs } = JSON.parse(line);
    if (what === 'submit') {
      await submit(Array.from({ length: jobs }, (_, n) => job(first + n)));
      say({ submitted: jobs });
    } else {
      say({ milliseconds: await timed(first, jobs, run) });
    }
  }
  await Promise.all(children.map(stop));
  process.exit(0);
}

function stop(child) {
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  const late = setTimeout(() => child.kill('SIGKILL'), STOP_WITHIN_MS);
  return ended.finally(() => clearTimeout(late));
}

module.exports = { options, job, done, versions, workers, serve };
