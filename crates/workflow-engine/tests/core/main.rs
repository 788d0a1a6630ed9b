//! The pure heart, without servers: what documents are taken, and what follows from what happens to a run.

mod documents;
mod fans;
mod play;
mod runs;
mod shipped;
mod stored;
