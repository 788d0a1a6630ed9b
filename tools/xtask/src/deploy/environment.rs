//! Whether a program takes exactly the variables that it is given: asked of the program itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The programs of the image, where they are here.
pub(crate) struct Programs {
    folder: PathBuf,
}

impl Programs {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// What is wrong with these variables for this command.
    pub(crate) fn check(&self, command: &[String], variables: &BTreeMap<String, String>) -> Vec<String> {
        match command {
            [program, role] if program == "busbar" => self.check_role(role, variables),
            [program] if program == "worker" => self.check_helped("worker", variables),
            [program, ..] if program == "ctl" => self.check_helped("ctl", variables),
            other => vec![format!("nobody knows the command {other:?}")],
        }
    }

    /// A role refuses what is wrong, and unknown names of the form `BUSBAR_SECTION__KEY`. Other names that it does not know it leaves
    /// alone, so that one must show in the configuration that it prints.
    fn check_role(&self, role: &str, variables: &BTreeMap<String, String>) -> Vec<String> {
        let checked = self.run("busbar", &[role, "--check-config"], variables);
        if let Err(said) = checked {
            return vec![said];
        }
        let whole = self.run("busbar", &[role, "--print-config"], variables);
        let plain = variables.keys().filter(|name| !(name.starts_with("BUSBAR_") && name.contains("__")));
        let changes_nothing = |name: &&String| {
            let others = variables.iter().filter(|(other, _)| other != name).map(|(a, b)| (a.clone(), b.clone())).collect();
            self.run("busbar", &[role, "--print-config"], &others) == whole
        };
        plain.filter(changes_nothing).map(|name| format!("{name} changes nothing in the configuration")).collect()
    }

    /// `worker` and `ctl` take arguments from the variables that their help names.
    fn check_helped(&self, program: &str, variables: &BTreeMap<String, String>) -> Vec<String> {
        let help = match self.run(program, &["--help"], &BTreeMap::new()) {
            Ok(help) => help,
            Err(said) => return vec![said],
        };
        let known = |name: &String| help.contains(&format!("[env: {name}=")) || help.contains(&format!("[env: {name}]"));
        variables.keys().filter(|name| !known(name)).map(|name| format!("{program} does not know {name}")).collect()
    }

    /// What it prints; or, when it fails, what it says.
    fn run(&self, program: &str, arguments: &[&str], variables: &BTreeMap<String, String>) -> Result<String, String> {
        let path = self.folder.join(program);
        let mut command = Command::new(&path);
        let output = command.args(arguments).env_clear().envs(variables).stdin(Stdio::null()).output();
        let Output { status, stdout, stderr } = output.map_err(|error| format!("{}: {error}", path.display()))?;
        if status.success() {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        Err(String::from_utf8_lossy(&stderr).lines().next().unwrap_or("it failed without a word").to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Programs of shell that behave as ours do.
    fn programs(folder: &Path) -> Programs {
        let busbar =
            "#!/bin/sh\n[ \"$BUSBAR_A__B\" != bad ] || { echo 'busbar: unknown key' >&2; exit 2; }\necho \"nats: $NATS_URL\"\n";
        let worker = "#!/bin/sh\necho '--id <ID>  [env: WORKER_ID=]'\necho '--nats <URL>  [env: NATS_URL]'\n";
        let ctl = "#!/bin/sh\necho '--api-key <KEY>  [env: BUSBAR_API_KEY]'\n";
        for (name, text) in [("busbar", busbar), ("worker", worker), ("ctl", ctl)] {
            fs::write(folder.join(name), text).expect("written");
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).expect("executable");
        }
        Programs::new(folder)
    }

    #[test]
    fn what_a_program_does_not_know_is_told() {
        let temp = tempfile::tempdir().expect("a folder");
        let programs = programs(temp.path());
        let told = |command: &[&str], variables: &[(&str, &str)]| {
            let own = |text: &&str| (*text).to_owned();
            programs.check(
                &command.iter().map(own).collect::<Vec<_>>(),
                &variables.iter().map(|(name, value)| (own(name), own(value))).collect(),
            )
        };
        assert_eq!(told(&["busbar", "scheduler"], &[("NATS_URL", "x"), ("BUSBAR_A__B", "good")]), Vec::<String>::new());
        assert_eq!(told(&["busbar", "scheduler"], &[("NATS_URI", "x")]), ["NATS_URI changes nothing in the configuration"]);
        assert_eq!(told(&["busbar", "scheduler"], &[("BUSBAR_A__B", "bad")]), ["busbar: unknown key"]);
        assert_eq!(told(&["worker"], &[("NATS_URL", "x"), ("WORKER_ID", "y")]), Vec::<String>::new());
        assert_eq!(told(&["worker"], &[("WORKER_NAME", "x")]), ["worker does not know WORKER_NAME"]);
        assert_eq!(told(&["ctl", "pack"], &[("BUSBAR_API_KEY", "x")]), Vec::<String>::new());
        assert_eq!(told(&["ctl", "pack"], &[("BUSBAR_KEY", "x")]), ["ctl does not know BUSBAR_KEY"]);
        assert_eq!(told(&["sh"], &[]).len(), 1);
    }
}
