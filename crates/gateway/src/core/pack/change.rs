//! What an installation means for each part.

use std::collections::BTreeMap;

use busbar_api::{PackAction, PackChange};
use busbar_protocol::busbar::{PackPartKind, PackRelease};

/// What happens to each part when one release takes the place of another, or comes, or goes. By kind and name.
pub(crate) fn changes(before: Option<&PackRelease>, after: Option<&PackRelease>) -> Vec<PackChange> {
    let mut digests: BTreeMap<(i32, &str), [Option<&str>; 2]> = BTreeMap::new();
    for (place, release) in [before, after].into_iter().enumerate() {
        for part in release.into_iter().flat_map(|release| &release.parts) {
            digests.entry((part.kind, &part.name)).or_default()[place] = Some(&part.sha256);
        }
    }
    let change = |((part, name), [before, after]): ((i32, &str), [Option<&str>; 2])| {
        let (action, sha256) = match (before, after) {
            (None, after) => (PackAction::Create, after),
            (Some(_), None) => (PackAction::Remove, before),
            (Some(before), Some(after)) if before == after => (PackAction::Keep, Some(after)),
            (Some(_), Some(after)) => (PackAction::Change, Some(after)),
        };
        let kind = kind(PackPartKind::try_from(part).unwrap_or_default()).to_owned();
        PackChange { action, kind, name: name.to_owned(), sha256: sha256.unwrap_or_default().to_owned() }
    };
    digests.into_iter().map(change).collect()
}

/// A kind of part, in a word.
pub(crate) const fn kind(kind: PackPartKind) -> &'static str {
    match kind {
        PackPartKind::Unspecified => "unknown",
        PackPartKind::Module => "module",
        PackPartKind::Topic => "topic",
        PackPartKind::Policy => "policy",
        PackPartKind::Workflow => "workflow",
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar::PackPart;

    use super::*;

    #[test]
    fn each_part_has_its_change() {
        let of = |parts: &[(PackPartKind, &str, &str)]| PackRelease {
            parts: parts
                .iter()
                .map(|(kind, name, sha256)| PackPart { kind: (*kind).into(), name: (*name).into(), sha256: (*sha256).into() })
                .collect(),
            ..PackRelease::default()
        };
        let (module, topic) = (PackPartKind::Module, PackPartKind::Topic);
        let before = of(&[(topic, "job.a.gone", "1"), (topic, "job.a.same", "2"), (module, "m", "3")]);
        let after = of(&[(topic, "job.a.same", "2"), (topic, "job.a.new", "4"), (module, "m", "5")]);
        let told = |before, after| -> Vec<String> {
            changes(before, after).iter().map(|c| format!("{} {} {} {}", c.action, c.kind, c.name, c.sha256)).collect()
        };
        let all = ["change module m 5", "remove topic job.a.gone 1", "create topic job.a.new 4", "keep topic job.a.same 2"];
        assert_eq!(told(Some(&before), Some(&after)), all);
        assert_eq!(told(None, Some(&before)).iter().filter(|change| change.starts_with("create")).count(), 3);
        assert_eq!(told(Some(&before), None).iter().filter(|change| change.starts_with("remove")).count(), 3);
    }
}
