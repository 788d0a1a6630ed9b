//! Whose results count: every rule of the verdict as a table, and sabotage as a simulation.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod model;
mod rules;
mod sabotage;
