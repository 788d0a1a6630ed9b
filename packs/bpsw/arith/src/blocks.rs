//! What searches that go block by block have in common: how many blocks there may be, where one may go on, how far it is.

/// The most blocks of a search, so that a checkpoint that lists them stays small.
pub(crate) const BLOCKS_MAX: u64 = 512;

/// Whether a search of `count` items in blocks of `block` can have come to `checked` of them with so many blocks behind it.
pub(crate) fn is_end(checked: u64, count: u64, block: u64, blocks: usize) -> bool {
    let whole = checked == count || checked.is_multiple_of(block);
    checked <= count && whole && blocks as u64 == checked.div_ceil(block)
}

/// How much is behind, in percent.
pub(crate) fn percent(done: u64, count: u64) -> i32 {
    i32::try_from(done * 100 / count.max(1)).expect("at most 100")
}
