//! Tiny guests, each of which does one thing, most of them bad. They are written in WebAssembly's text form, so that a test shows
//! exactly what the guest does.

mod ends;
mod escapes;
mod files;
mod limits;
mod modules;
mod repeatable;
mod support;
