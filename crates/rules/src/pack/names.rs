//! The names that packs may use: their own, those of their files, and those of their topics.

use super::Broken;
use crate::TopicPattern;

/// The longest name of a file, in bytes.
const FILE_BYTES_MAX: usize = 255;

/// Topics outside of their pack's name space. They are older than packs, and every client knows them: each belongs to one pack.
const SHARED_TOPICS: &[(&str, &[&str])] = &[("smoke", &["job.echo", "job.default"])];

/// Whether a text can name a pack: 1 to 64 lower-case letters, digits and `-`, the first of them no `-`.
#[must_use]
pub fn is_pack_id(text: &str) -> bool {
    let is_good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(is_good) && !text.starts_with('-')
}

/// Refuses the name of a file that would lie outside of the pack's folder, or that not every system can have.
pub(super) fn check_file(file: &str) -> Result<(), &'static str> {
    if file.is_empty() || file.len() > FILE_BYTES_MAX {
        return Err("the name of a file has 1 to 255 bytes");
    }
    if file.bytes().any(|b| b.is_ascii_control() || b == b'\\') {
        return Err("the name of a file has no control characters and no backslashes");
    }
    let is_plain = |part: &str| !matches!(part, "" | "." | "..");
    if !file.split('/').all(is_plain) {
        return Err("it must be a file in the pack: a relative path without `.` and `..`");
    }
    Ok(())
}

/// Refuses a topic that is none of the pack's.
pub(super) fn check_topic(pack_id: &str, topic: &str) -> Result<(), Broken> {
    let place = || format!("topics.yaml: {topic}: topic");
    let pattern = TopicPattern::parse(topic).map_err(|error| Broken::new(place(), error.to_string()))?;
    let own = format!("job.{pack_id}.");
    let is_shared = SHARED_TOPICS.iter().any(|(owner, topics)| *owner == pack_id && topics.contains(&topic));
    if pattern.literal_prefix().starts_with(&own) || is_shared {
        return Ok(());
    }
    Err(Broken::new(place(), format!("a topic of this pack begins with `{own}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain() {
        for good in ["a", "bpsw", "term-executor", "7z"] {
            assert!(is_pack_id(good), "{good}");
        }
        for bad in ["", "-a", "A", "a.b", "a_b", "ä", "../x", &"x".repeat(65)] {
            assert!(!is_pack_id(bad), "{bad}");
        }
    }

    #[test]
    fn files_stay_in_the_pack() {
        for good in ["a", "schemas/a.json", "a..b", "ü"] {
            assert_eq!(check_file(good), Ok(()), "{good}");
        }
        for bad in ["", "/a", "../a", "a/../b", "a//b", "./a", "a/", "a\\b", "a\0b", "a\nb", &"x".repeat(256)] {
            assert!(check_file(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn topics_are_the_packs_own() {
        for (pack, topic) in
            [("a", "job.a.x"), ("a", "job.a.*"), ("a", "job.a.>"), ("smoke", "job.echo"), ("smoke", "job.smoke.x")]
        {
            assert_eq!(check_topic(pack, topic), Ok(()), "{pack} {topic}");
        }
        let foreign = ["job.a", "job.b.x", "job.ab.x", "job.*", "job.>", "job.*.x", "job.echo", "sys.a", ""];
        for topic in foreign {
            assert!(check_topic("a", topic).is_err(), "{topic}");
        }
    }
}
