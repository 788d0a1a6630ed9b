//! Rules for `deploy/Dockerfile`.

use super::images::is_pinned;
use crate::compose_local::IMAGE_PACKS;

/// What is wrong with the image's recipe.
pub(crate) fn check(recipe: &str, toolchain: &str) -> Vec<String> {
    let lines: Vec<&str> = recipe.lines().map(str::trim).collect();
    let of = |word: &'static str| lines.iter().filter_map(move |line| line.strip_prefix(word)).map(str::trim);
    let mut findings = Vec::new();

    let bases = of("FROM ").filter_map(|base| base.split(' ').next()).filter(|base| *base != "scratch");
    findings.extend(bases.filter(|base| !is_pinned(base)).map(|base| format!("the base image {base} is not pinned")));
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap_or_default().trim_matches('"');
    if !recipe.contains(&format!("rust:{channel}-")) {
        findings.push(format!("it is not built with Rust {channel}, which rust-toolchain.toml names"));
    }
    let user = of("USER ").next_back().unwrap_or_default();
    if !user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)) {
        findings.push("it runs as root, or as a user without a number".to_owned());
    }
    findings.into_iter().map(|finding| format!("deploy/Dockerfile: {finding}")).collect()
}

/// What is wrong with the script that gathers the image's files.
pub(crate) fn check_root(script: &str) -> Vec<String> {
    let packs = IMAGE_PACKS.trim_start_matches('/');
    let there = script.contains(packs);
    (!there).then(|| format!("deploy/root-of-image: it does not make {IMAGE_PACKS}")).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "FROM rust:1.95.0-slim AS build\nRUN x\nFROM scratch\nUSER 65532:65532\n";
    const TOOLCHAIN: &str = "[toolchain]\nchannel = \"1.95.0\"\n";

    #[test]
    fn each_wrong_line_is_told() {
        assert_eq!(check(GOOD, TOOLCHAIN), Vec::<String>::new());
        for (from, to) in
            [("rust:1.95.0-slim", "rust:1.94.0-slim"), ("scratch", "debian:latest"), ("65532:65532", "0"), ("USER", "#")]
        {
            assert_eq!(check(&GOOD.replace(from, to), TOOLCHAIN).len(), 1, "{from} {to}");
        }
        assert_eq!(check_root("cp packs usr/share/busbar/packs"), Vec::<String>::new());
        assert_eq!(check_root("").len(), 1);
    }
}
