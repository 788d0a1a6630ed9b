//! Tells the host how far the work is, with each new whole percentage.

/// What was told last.
pub(crate) struct Progress {
    told: Option<u64>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { told: None }
    }

    /// `done` of `total` is done.
    pub(crate) fn tell(&mut self, done: u64, total: u64) {
        // In 128 bits, because a hundred times a number of bytes could overflow 64.
        let percent = if total == 0 { 100 } else { (u128::from(done) * 100 / u128::from(total)).min(100) };
        let percent = u64::try_from(percent).expect("at most 100");
        if self.told != Some(percent) {
            self.told = Some(percent);
            send(i32::try_from(percent).expect("at most 100"));
        }
    }
}

#[cfg(target_arch = "wasm32")]
fn send(percent: i32) {
    #[link(wasm_import_module = "busbar")]
    #[expect(unsafe_code, reason = "an import can only be declared so; it takes a number and touches no memory")]
    unsafe extern "C" {
        safe fn progress(percent: i32);
    }
    progress(percent);
}

#[cfg(not(target_arch = "wasm32"))]
fn send(_percent: i32) {}
