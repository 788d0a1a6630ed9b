//! What can go wrong with the model store.

/// How often the store fails, and how. The default is a store without faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFaults {
    /// How many of a thousand calls fail before anything was done.
    pub unavailable_before_per_mille: u32,
    /// How many of a thousand changes are done although their caller is told that the store was not available.
    pub unavailable_after_per_mille: u32,
    /// The longest time that a call takes, in milliseconds.
    pub delay_ms_max: u64,
    /// New work is refused for want of memory.
    pub memory_short: bool,
}
