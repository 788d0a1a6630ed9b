//! Guests of random calls: every function that is offered, with arguments that are often sensible and often not.

use std::fmt::Write as _;

use crate::dice::Dice;

/// The functions of WASI's that are offered, with the types of their parameters: `i` is 32 bits wide, `l` 64. All return an errno.
const CALLS: &[(&str, &str)] = &[
    ("args_get", "ii"),
    ("args_sizes_get", "ii"),
    ("clock_res_get", "ii"),
    ("clock_time_get", "ili"),
    ("environ_get", "ii"),
    ("environ_sizes_get", "ii"),
    ("fd_advise", "illi"),
    ("fd_allocate", "ill"),
    ("fd_close", "i"),
    ("fd_datasync", "i"),
    ("fd_fdstat_get", "ii"),
    ("fd_fdstat_set_flags", "ii"),
    ("fd_fdstat_set_rights", "ill"),
    ("fd_filestat_get", "ii"),
    ("fd_filestat_set_size", "il"),
    ("fd_filestat_set_times", "illi"),
    ("fd_pread", "iiili"),
    ("fd_prestat_dir_name", "iii"),
    ("fd_prestat_get", "ii"),
    ("fd_pwrite", "iiili"),
    ("fd_read", "iiii"),
    ("fd_readdir", "iiili"),
    ("fd_renumber", "ii"),
    ("fd_seek", "ilii"),
    ("fd_sync", "i"),
    ("fd_tell", "ii"),
    ("fd_write", "iiii"),
    ("path_create_directory", "iii"),
    ("path_filestat_get", "iiiii"),
    ("path_filestat_set_times", "iiiilli"),
    ("path_link", "iiiiiii"),
    ("path_open", "iiiiillii"),
    ("path_readlink", "iiiiii"),
    ("path_remove_directory", "iii"),
    ("path_rename", "iiiiii"),
    ("path_symlink", "iiiii"),
    ("path_unlink_file", "iii"),
    ("poll_oneoff", "iiii"),
    ("random_get", "ii"),
    ("sched_yield", ""),
];

/// Names that lead somewhere, or should not.
const PATHS: &[&str] = &[
    "a",
    "b",
    "b/c",
    "text",
    "checkpoint",
    ".",
    "..",
    "../canary",
    "../../canary",
    "../../../canary",
    "a/../..",
    "./a",
    "//",
    "/etc/passwd",
    "/proc/self/environ",
    "/proc/self/exe",
    "",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// Where the names lie, each at a multiple of this, and the vectors that calls read and write through.
const PATHS_AT: usize = 4096;
const PATH_BYTES: usize = 256;
const VECTORS_AT: usize = 2048;

/// The text of a guest.
pub(crate) fn random(dice: &mut Dice) -> String {
    let mut text = String::from("(module\n");
    for (name, parameters) in CALLS {
        let types: String = parameters.chars().map(|letter| if letter == 'l' { " i64" } else { " i32" }).collect();
        let _ = writeln!(text, "(import \"wasi_snapshot_preview1\" \"{name}\" (func ${name} (param{types}) (result i32)))");
    }
    text.push_str("(import \"busbar\" \"progress\" (func $progress (param i32)))\n");
    text.push_str("(import \"busbar\" \"checkpoint\" (func $checkpoint (param i32 i32)))\n");
    let pages = dice.pick(&[1, 2, 16, 100]);
    let _ = writeln!(text, "(memory (export \"memory\") {pages})\n(table $t 4 funcref)\n(elem (i32.const 1) $deep)");
    for (index, path) in PATHS.iter().enumerate() {
        let _ = writeln!(text, "(data (i32.const {}) \"{path}\")", PATHS_AT + index * PATH_BYTES);
    }
    for index in 0..8 {
        let (start, length) =
            (dice.pick(&[0, 512, 512, 1024, 4096, 4096, 4096, 65_535]), dice.pick(&[0, 1, 16, 100, 100, 5_000, 5_000, -1]));
        let _ = writeln!(text, "(data (i32.const {}) \"{}{}\")", VECTORS_AT + index * 8, little(*start), little(*length));
    }
    text.push_str("(func $deep (param $n i32) (if (local.get $n) (then (call $deep (i32.sub (local.get $n) (i32.const 1))))))\n");
    text.push_str("(func (export \"_start\") (local $i i32)\n");
    for _ in 0..=dice.below(40) {
        step(dice, &mut text, 0);
    }
    text.push_str("))\n");
    text
}

/// One step, which may hold others.
fn step(dice: &mut Dice, text: &mut String, depth: usize) {
    match dice.below(24) {
        0 if depth < 3 => looped(dice, text, depth),
        1 => text.push_str("(drop (memory.grow (i32.const 17)))\n"),
        2 => text.push_str("(drop (table.grow $t (ref.null func) (i32.const 30000)))\n"),
        3 => text.push_str(&format!("(call $deep (i32.const {}))", dice.pick(&[1, 100, 1_000, 3_000, 3_000, 3_000, 1_000_000]))),
        4 => text.push_str(&format!("(call $progress {})", number(dice))),
        5 => text.push_str(&format!("(call $checkpoint {} {})", address(dice), length(dice))),
        6 => text.push_str(&format!("(i32.store {} {})", address(dice), number(dice))),
        7 if dice.once_in(16) => text.push_str("unreachable\n"),
        8 if dice.once_in(16) => text.push_str("(loop $ever (br $ever))\n"),
        9 => text.push_str(&format!("(call_indirect (param i32) (i32.const 1) {})", number(dice))),
        10 => text.push_str(&format!("(f64.store (i32.const 1024) (f64.div (f64.const 0) (f64.const {})))", dice.below(3))),
        _ => call(dice, text),
    }
}

fn looped(dice: &mut Dice, text: &mut String, depth: usize) {
    let times = dice.pick(&[3, 50, 2_000]);
    let label = format!("$again{depth}");
    let _ = writeln!(text, "(local.set $i (i32.const {times}))\n(loop {label}");
    for _ in 0..=dice.below(4) {
        step(dice, text, depth + 1);
    }
    let _ = writeln!(
        text,
        "(local.set $i (i32.sub (local.get $i) (i32.const 1))) (br_if {label} (i32.gt_s (local.get $i) (i32.const 0))))"
    );
}

fn call(dice: &mut Dice, text: &mut String) {
    let (name, parameters) = *dice.pick(CALLS);
    let _ = write!(text, "(i32.store (i32.const 1028) (call ${name}");
    let mut after_path = None;
    for (place, letter) in parameters.chars().enumerate() {
        let argument = match (letter, place, after_path.take()) {
            ('l', ..) => wide(dice),
            (_, _, Some(length)) => format!("(i32.const {length})"),
            (_, 0, None) => descriptor(dice),
            (..) if name.starts_with("path_") && dice.once_in(2) => {
                let path = dice.below(PATHS.len());
                after_path = Some(PATHS[path].len());
                format!("(i32.const {})", PATHS_AT + path * PATH_BYTES)
            }
            (..) if name.starts_with("fd_") && place == 1 => format!("(i32.const {})", VECTORS_AT + 8 * dice.below(8)),
            (..) => number(dice),
        };
        let _ = write!(text, " {argument}");
    }
    text.push_str("))\n");
}

/// One that is open, one that was opened last, one that is not.
fn descriptor(dice: &mut Dice) -> String {
    match dice.below(10) {
        0 => "(i32.load (i32.const 1024))".to_owned(),
        1 => number(dice),
        _ => format!("(i32.const {})", dice.pick(&[0, 1, 2, 3, 3, 4, 4, 4, 5, 6])),
    }
}

fn address(dice: &mut Dice) -> String {
    format!("(i32.const {})", dice.pick(&[0, 512, 1024, 1024, 2048, 2048, 4096, 4096, 40_000, 40_000, 60_000, 65_530, -1]))
}

fn length(dice: &mut Dice) -> String {
    format!("(i32.const {})", dice.pick(&[0, 1, 8, 100, 5_000, 65_536, 65_537, -1]))
}

fn number(dice: &mut Dice) -> String {
    let usual = [0, 1, 2, 3, 4, 5, 8, 15, 16, 64, 1024, 2048, 4096, 5000, 20_000];
    match dice.below(24) {
        0 => "(local.get $i)".to_owned(),
        1 => "(i32.load (i32.const 1024))".to_owned(),
        2 => format!("(i32.const {})", u32::try_from(dice.roll() >> 32).unwrap_or(0)),
        3 => format!("(i32.const {})", dice.pick(&[65_535, 65_536, -1, i32::MAX, i32::MIN])),
        _ => format!("(i32.const {})", dice.pick(&usual)),
    }
}

fn wide(dice: &mut Dice) -> String {
    format!("(i64.const {})", dice.pick(&[0, 1, 2, 66, 64, 4096, 1_000_000, 1 << 40, -1, i64::MAX, i64::MIN]))
}

fn little(number: i32) -> String {
    number.to_le_bytes().iter().map(|byte| format!("\\{byte:02x}")).collect()
}
