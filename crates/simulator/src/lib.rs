//! Runs the real scheduler and workflow engine against seeded models of the bus and the store.

mod batch;
pub mod chaos;
pub mod gate;
pub mod model_bus;
pub mod model_store;
pub mod plant;
pub mod sabotage;
pub mod watch;
pub mod world;
