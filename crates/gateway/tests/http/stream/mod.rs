//! The live stream: nothing is missed, nobody sees what is not his, and who is slow or wrong hurts nobody else.

mod clients;
mod filters;
mod refused;
mod resume;
mod slow;
