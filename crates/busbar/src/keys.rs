//! `busbar key`: makes, lists and revokes API keys, straight in the store. Whoever can reach the store may do it.

use std::io::{self, Write as _};

use busbar_gateway::{BOOTSTRAP_KEY, KeptKey, NewKey, RevokeError, create_key, list_keys, revoke_key};
use busbar_protocol::ports::StoreError;
use busbar_store::Store;

use crate::cli::{KeyCommand, NewKeyArgs};
use crate::config::Config;
use crate::failure::Failure;

/// So much of an id is shown; it is enough to name the key.
const ID_CHARS_SHOWN: usize = 12;
const NAME_CHARS_MAX: usize = 64;

/// Why a key was not made or taken away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error(transparent)]
    Revoke(#[from] RevokeError),
    #[error("the store does not do it")]
    Store(#[from] StoreError),
}

/// Does what was asked, and says so: on stdout what programs want to read, on stderr the rest.
pub(crate) async fn run(command: &KeyCommand, config: &Config) -> Result<(), Failure> {
    let store = Store::connect(config.store("key")).await?;
    match command {
        KeyCommand::Create(args) => create(&store, args).await,
        KeyCommand::List { .. } => list(&store).await,
        KeyCommand::Revoke { which, .. } => revoke(&store, which).await,
    }
}

async fn create(store: &Store, args: &NewKeyArgs) -> Result<(), Failure> {
    let new = NewKey { name: args.name.clone(), tenant_id: args.tenant.clone(), roles: args.role.clone() };
    let key = create_key(store, &new).await.map_err(KeyError::from)?;
    let roles: Vec<&str> = new.roles.iter().map(|role| role.as_str()).collect();
    // Nobody to tell is no reason to hide the key.
    let told =
        format!("{} of tenant {}, {}; this is the only time that the key is shown", new.name, new.tenant_id, roles.join(", "));
    let _ = writeln!(io::stderr(), "{told}");
    writeln!(io::stdout(), "{key}").map_err(Failure::Output)
}

async fn list(store: &Store) -> Result<(), Failure> {
    let keys = list_keys(store).await.map_err(KeyError::from)?;
    match io::stdout().write_all(table(&keys).as_bytes()) {
        // Whoever reads us has seen enough, as `head` does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

async fn revoke(store: &Store, which: &str) -> Result<(), Failure> {
    let key = revoke_key(store, which).await.map_err(KeyError::from)?;
    let told = format!("{} ({}) is revoked; gateways may believe it for some seconds more", key.name, &key.id[..ID_CHARS_SHOWN]);
    let _ = writeln!(io::stderr(), "{told}");
    Ok(())
}

fn table(keys: &[KeptKey]) -> String {
    let width = |of: fn(&KeptKey) -> &str, title: &str| {
        keys.iter().map(|key| of(key).chars().count()).max().unwrap_or(0).max(title.len())
    };
    let (names, tenants) = (width(|key| &key.name, "NAME"), width(|key| &key.tenant_id, "TENANT"));
    let mut text = format!("{:<ID_CHARS_SHOWN$}  {:<names$}  {:<tenants$}  {:<24}  ROLES\n", "ID", "NAME", "TENANT", "CREATED");
    for KeptKey { id, name, tenant_id, roles, created } in keys {
        let (id, created) = (&id[..ID_CHARS_SHOWN.min(id.len())], created.to_string());
        text += &format!("{id}  {name:<names$}  {tenant_id:<tenants$}  {created:<24}  {}\n", roles.join(","));
    }
    text
}

/// For `clap`: a name that can be shown, and that is not taken by the configuration.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let fits = (1..=NAME_CHARS_MAX).contains(&text.chars().count()) && !text.contains(char::is_control) && text.trim() == text;
    match text {
        BOOTSTRAP_KEY => Err(format!("{BOOTSTRAP_KEY} is the name of the key that the configuration brings")),
        _ if fits => Ok(text.to_owned()),
        _ => Err(format!("1 to {NAME_CHARS_MAX} characters without blanks at the ends are wanted")),
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::time::Timestamp;

    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_key() {
        let key = KeptKey {
            id: "0123456789abcdef".repeat(4),
            name: "ci".into(),
            tenant_id: "acme".into(),
            roles: vec!["viewer".into(), "submitter".into()],
            created: Timestamp::from_millis(0),
        };
        let expected = "\
ID            NAME  TENANT  CREATED                   ROLES
0123456789ab  ci    acme    1970-01-01T00:00:00.000Z  viewer,submitter
";
        assert_eq!(table(&[key]), expected);
    }

    #[test]
    fn names_that_cannot_be_shown_or_are_taken_are_refused() {
        assert_eq!(name("ci of acme"), Ok("ci of acme".to_owned()));
        for bad in ["", " ci", "ci\n", "bootstrap", &"x".repeat(65)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }
}
