//! What configurations come out of which sources.

use super::*;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    nats: Nats,
    limits: Limits,
    careless: Careless,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Nats {
    url: String,
    password: Secret,
}

impl Default for Nats {
    fn default() -> Self {
        Self { url: "nats://127.0.0.1:4222".into(), password: Secret::default() }
    }
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Limits {
    backlog: u32,
    strict: bool,
    pools: Vec<String>,
    note: Option<String>,
}

/// Forgets to refuse unknown fields.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Careless {
    depth: u8,
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn sources(file: &str, env: &[(&str, &str)], overrides: &[(&str, &str)]) -> Sources {
    Sources {
        file: Some(("busbar.yaml".into(), file.into())),
        env: pairs(env).into_iter().collect(),
        aliases: pairs(&[("NATS_URL", "nats.url")]),
        overrides: pairs(overrides),
    }
}

fn unknown(key: &str, origin: &str) -> ConfigError {
    ConfigError::UnknownKey { key: key.into(), origin: origin.into() }
}

#[test]
fn what_comes_later_wins() {
    let file = "nats:\n  url: file\nlimits:\n  backlog: 1\n  strict: true\n";
    let env = [("NATS_URL", "alias"), ("BUSBAR_LIMITS__BACKLOG", "2"), ("BUSBAR_LIMITS__POOLS", "a, b"), ("PATH", "/bin")];
    let config: Config = load(&sources(file, &env, &[("limits.backlog", "3")])).expect("valid");
    assert_eq!(config.nats.url, "alias");
    assert_eq!(config.limits, Limits { backlog: 3, strict: true, pools: vec!["a".into(), "b".into()], note: None });

    let env = [("NATS_URL", "alias"), ("BUSBAR_NATS__URL", "4222")];
    let config: Config = load(&sources("", &env, &[])).expect("valid");
    assert_eq!(config.nats.url, "4222", "the long name wins, and a number is a good text");
}

#[test]
fn nothing_at_all_gives_the_defaults() {
    assert_eq!(load::<Config>(&Sources::default()).expect("valid"), Config::default());
    let config: Config = load(&sources("# nothing\nlimits:\n", &[("NATS_URL", "")], &[])).expect("valid");
    assert_eq!(config, Config::default());
}

#[test]
fn unknown_keys_are_named_with_their_origin() {
    let error = |file, env, overrides| load::<Config>(&sources(file, env, overrides)).expect_err("refused");
    assert_eq!(error("limits: { backlog: 1, backlock: 2 }", &[], &[]), unknown("limits.backlock", "busbar.yaml"));
    assert_eq!(error("careless: { depht: 2 }", &[], &[]), unknown("careless.depht", "busbar.yaml"));
    assert_eq!(error("", &[("BUSBAR_NATS__ULR", "x")], &[]), unknown("nats.ulr", "BUSBAR_NATS__ULR"));
    assert_eq!(error("", &[], &[("no.such", "x")]), unknown("no.such", "the command line"));
    let both = error("", &[], &[("no.such", "x")]).to_string();
    assert_eq!(both, "unknown key no.such (from the command line)");
    // Other variables with our prefix belong to others.
    assert!(load::<Config>(&sources("", &[("BUSBAR_NATS_SERVER", "/bin/x")], &[])).is_ok());
}

#[test]
fn wrong_values_are_named_with_their_origin() {
    let error = load::<Config>(&sources("", &[("BUSBAR_LIMITS__BACKLOG", "many")], &[])).expect_err("refused");
    let ConfigError::Invalid { key, origin, .. } = &error else { panic!("{error}") };
    assert_eq!((key.as_str(), origin.as_str()), ("limits.backlog", "BUSBAR_LIMITS__BACKLOG"));
    let error = load::<Config>(&sources("limits: { strict: 7 }", &[], &[])).expect_err("refused");
    assert!(matches!(&error, ConfigError::Invalid { key, .. } if key == "limits.strict"), "{error}");
    let error = load::<Config>(&sources("limits: [", &[], &[])).expect_err("refused");
    assert!(matches!(error, ConfigError::Syntax { .. }), "{error}");
    let error = load::<Config>(&sources("limits: { backlog: 1, backlog: 2 }", &[], &[])).expect_err("refused");
    assert!(matches!(error, ConfigError::Syntax { .. }), "{error}");
}

#[test]
fn secrets_are_not_printed() {
    let config: Config = load(&sources("", &[("BUSBAR_NATS__PASSWORD", "hunter2")], &[])).expect("valid");
    assert_eq!(config.nats.password.expose(), "hunter2");
    let printed = print(&config) + &format!("{config:?}");
    assert!(!printed.contains("hunter2") && printed.contains("***"), "{printed}");
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let missing = Sources::of_process(Some(Path::new("/no/such/busbar.yaml")), vec![]).expect_err("refused");
    assert!(matches!(missing, ConfigError::Unreadable { .. }));
}

#[test]
fn the_printed_form_loads_again() {
    let config = Config { limits: Limits { backlog: 9, pools: vec!["a".into()], ..Limits::default() }, ..Config::default() };
    let again: Config = load(&sources(&print(&config), &[], &[])).expect("valid");
    assert_eq!(again, config);
}
