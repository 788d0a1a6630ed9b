//! The bus on a real nats-server.

mod core;
mod faults;
mod streams;
mod support;
