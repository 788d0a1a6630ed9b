//! Which images are used: all of them pinned, ours of this version, NATS and Redis new enough.

/// What the images must be.
pub(crate) struct Wanted {
    /// The version of nats-server that the tests run with.
    pub(crate) nats: String,
    /// The version of this workspace.
    pub(crate) ours: String,
}

/// The oldest Redis that does.
const REDIS_MAJOR_MIN: u32 = 7;

impl Wanted {
    /// What is wrong with an image, if anything.
    pub(crate) fn check(&self, image: &str) -> Option<String> {
        let (name, tag) = image.rsplit_once(':').unwrap_or((image, ""));
        if !is_pinned(image) {
            return Some(format!("the image {image} is not pinned: a whole version or a digest is wanted"));
        }
        let version = tag.split('-').next().unwrap_or_default();
        match name.rsplit('/').next().unwrap_or_default() {
            "nats" if version != self.nats => Some(format!("the image {image} is not {}, with which the tests run", self.nats)),
            "redis" if version.split('.').next().and_then(|major| major.parse().ok()) < Some(REDIS_MAJOR_MIN) => {
                Some(format!("the image {image} is older than Redis {REDIS_MAJOR_MIN}"))
            }
            "busbar" if version != self.ours => Some(format!("the image {image} is not of this version, {}", self.ours)),
            _ => None,
        }
    }
}

/// Whether an image is named by a digest, or by a tag that begins with a whole version: three numbers.
pub(crate) fn is_pinned(image: &str) -> bool {
    if image.contains("@sha256:") {
        return true;
    }
    let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
    let version: Vec<&str> = tag.split('-').next().unwrap_or_default().split('.').collect();
    version.len() == 3 && version.iter().all(|number| number.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_must_be_pinned_and_right() {
        let wanted = Wanted { nats: "2.15.1".into(), ours: "0.1.0".into() };
        for good in
            ["nats:2.15.1-alpine", "docker.io/library/redis:7.2.11", "busbar:0.1.0", "r.example:5000/busbar:0.1.0", "x@sha256:ab"]
        {
            assert_eq!(wanted.check(good), None);
        }
        for bad in [
            "nats",
            "nats:latest",
            "nats:2-alpine",
            "nats:2.12.0",
            "redis:6.2.13",
            "redis:7.2",
            "busbar:0.2.0",
            "r.example:5000/x",
        ] {
            assert!(wanted.check(bad).is_some(), "{bad}");
        }
    }
}
