//! Random bytes that nobody can guess.

use rand::TryRng as _;
use rand::rngs::SysRng;

/// So many of them; none, where the machine gives none.
pub(crate) fn draw<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).ok()?;
    Some(bytes)
}
