//! Packs: installed, upgraded and uninstalled over HTTP, with deaths at every step.

mod around;
mod concurrency;
mod deaths;
mod dump;
mod in_force;
mod install;
mod mortal;
mod refusals;
mod rig;
