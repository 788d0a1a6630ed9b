//! Where artifacts lie.

use std::path::{Component, Path, PathBuf};

/// The file of an artifact; `None` for what is not the name of one file.
pub(crate) fn below(folder: &Path, artifact: &str) -> Option<PathBuf> {
    let mut components = Path::new(artifact).components();
    let is_one_name = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    is_one_name.then(|| folder.join(artifact))
}
