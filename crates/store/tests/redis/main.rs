//! The store against a real redis-server: everything that the port promises, and what happens when the server does not.

mod bare;
mod connecting;
mod cost;
mod faults;
mod guards;
mod leases;
mod payloads;
mod server;
mod writes;
