//! The bus on a real nats-server.

mod bare;
mod core;
mod faults;
mod permissions;
mod streams;
mod support;
