//! A few seconds of `tools/chaos`, so that it is known to work.

use std::process::Command;

use crate::support::{built, size};

#[test]
fn faults_at_random_lose_nothing() {
    let seconds = size(5, 3_600).to_string();
    let chaos = Command::new(built("examples/chaos")).args(["mix", "--seed", "7", "--seconds", &seconds]).output().unwrap();
    let (told, said) = (String::from_utf8_lossy(&chaos.stdout), String::from_utf8_lossy(&chaos.stderr));
    assert!(chaos.status.success(), "{said}\n{told}");
    let row = |name: &str| -> u64 {
        let line = told.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {told}"));
        line.split(' ').next_back().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    assert_eq!(["lost", "duplicated", "stuck"].map(row), [0; 3], "{told}");
    assert!(row("acknowledged") > 0 && told.contains("faults: "), "{told}");
}
