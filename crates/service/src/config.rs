//! Typed configuration: defaults, then a file, then the environment, then flags; what comes later wins.
//!
//! A configuration is a struct that derives `Serialize` and `Deserialize`, with `#[serde(default, deny_unknown_fields)]` on it and on
//! every struct in it. Then:
//!
//! - the file is YAML; a key without a value counts as not given;
//! - `BUSBAR_<SECTION>__<KEY>` sets `section.key`; text, numbers, booleans and comma-separated lists are taken as the field
//!   wants them; an empty variable counts as not set; names without `__` are not ours;
//! - aliases, such as [`FAMILIAR`], set what their table says, unless the long name is there as well;
//! - every key that nobody knows is an error that names the key and where it came from.
//!
//! Sources are values: tests pass a map and never touch the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use busbar_protocol::codes::Code;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What begins the name of our environment variables.
const ENV_PREFIX: &str = "BUSBAR_";

/// The largest file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Environment variables that users of such systems know, and the keys that they set.
pub const FAMILIAR: &[(&str, &str)] = &[
    ("BLOBS_URL", "blobs.url"),
    ("GATEWAY_GRPC_ADDR", "grpc.listen"),
    ("GRPC_TLS_CERT", "grpc.tls_certificate_file"),
    ("GRPC_TLS_KEY", "grpc.tls_key_file"),
    ("NATS_URL", "nats.url"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_endpoint"),
    ("POOL_CONFIG_PATH", "scheduler.pool_config_path"),
    ("REDIS_URL", "redis.url"),
    ("SAFETY_KERNEL_ADDR", "safety_kernel.addr"),
    ("SAFETY_POLICY_PATH", "safety_kernel.policy_path"),
    ("TIMEOUT_CONFIG_PATH", "scheduler.timeout_config_path"),
];

/// Where a configuration comes from, in rising precedence.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file's name, for errors, and its text.
    pub file: Option<(String, String)>,
    /// Environment variables; those that are not ours are ignored.
    pub env: BTreeMap<String, String>,
    /// Variables with other names, and the keys that they set.
    pub aliases: Vec<(String, String)>,
    /// Keys and values from flags.
    pub overrides: Vec<(String, String)>,
}

impl Sources {
    /// What a process has: a file if there is one, its environment with the [`FAMILIAR`] aliases, and its flags.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`].
    pub fn of_process(file: Option<&Path>, overrides: Vec<(String, String)>) -> Result<Self, ConfigError> {
        let file = file.map(read_file).transpose()?;
        let env =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
        let aliases = FAMILIAR.iter().map(|(name, key)| ((*name).to_owned(), (*key).to_owned())).collect();
        Ok(Self { file, env, aliases, overrides })
    }
}

fn read_file(path: &Path) -> Result<(String, String), ConfigError> {
    let unreadable = |detail: String| ConfigError::Unreadable { path: path.to_owned(), detail };
    let size = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(unreadable(format!("{size} bytes are more than the {FILE_BYTES_MAX} that are taken")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    Ok((path.display().to_string(), text))
}

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read: {detail}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The file is no YAML mapping.
    #[error("{origin}: {detail}")]
    Syntax {
        /// The file.
        origin: String,
        /// What is wrong, with line and column.
        detail: String,
    },
    /// A key that nobody knows.
    #[error("unknown key {key} (from {origin})")]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it came from.
        origin: String,
    },
    /// A value that its key does not take.
    #[error("{key} (from {origin}): {detail}")]
    Invalid {
        /// The key.
        key: String,
        /// Where it came from.
        origin: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl ConfigError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> Code {
        Code::ConfigInvalid
    }
}

/// Loads a configuration.
///
/// # Errors
/// [`ConfigError`] names the first key that is unknown or has a wrong value, and where it came from.
pub fn load<T: DeserializeOwned + Serialize>(sources: &Sources) -> Result<T, ConfigError> {
    let mut loader = Loader::<T> { tree: Map::new(), found: std::marker::PhantomData };
    if let Some((origin, text)) = &sources.file {
        loader.apply_file(origin, text)?;
    }
    for (name, key) in &sources.aliases {
        if let Some(value) = sources.env.get(name) {
            loader.apply_text(key, value, name)?;
        }
    }
    for (name, value) in &sources.env {
        if let Some(key) = key_of(name) {
            loader.apply_text(&key, value, name)?;
        }
    }
    for (key, value) in &sources.overrides {
        loader.apply_text(key, value, "the command line")?;
    }
    parse(&loader.tree).map_err(|detail| ConfigError::Invalid { key: "the whole".into(), origin: "all sources".into(), detail })
}

/// The configuration as YAML, secrets hidden: what `--print-config` prints.
#[must_use]
pub fn print<T: Serialize>(config: &T) -> String {
    serde_saphyr::to_string(config).unwrap_or_else(|error| format!("# cannot be printed: {error}\n"))
}

/// The key that an environment variable sets, if it is one of ours.
fn key_of(name: &str) -> Option<String> {
    let rest = name.strip_prefix(ENV_PREFIX)?;
    rest.contains("__").then(|| rest.to_lowercase().replace("__", "."))
}

/// What is known so far. Each value is tried at once, so that an error names the value that caused it.
struct Loader<T> {
    tree: Map<String, Value>,
    found: std::marker::PhantomData<T>,
}

impl<T: DeserializeOwned + Serialize> Loader<T> {
    fn apply_file(&mut self, origin: &str, text: &str) -> Result<(), ConfigError> {
        let syntax = |detail: String| ConfigError::Syntax { origin: origin.to_owned(), detail };
        if is_blank(text) {
            return Ok(());
        }
        let options = serde_saphyr::options! { with_snippet: false };
        let file: Value = serde_saphyr::from_str_with_options(text, options).map_err(|error| syntax(error.to_string()))?;
        let file = match without_nulls(file) {
            Value::Object(file) => file,
            Value::Null => return Ok(()),
            Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                return Err(syntax("the file must hold keys and values".into()));
            }
        };
        // All at once, because one value may be right only together with another one; one by one only to find the culprit.
        match self.try_tree(&file) {
            Ok(()) => {
                self.tree = file;
                Ok(())
            }
            Err(whole) => Err(leaves(&file)
                .into_iter()
                .find_map(|(key, value)| self.try_tree(&with(&Map::new(), &key, value)).err().map(|cause| cause.at(&key, origin)))
                .unwrap_or_else(|| whole.at_its_own(origin))),
        }
    }

    fn apply_text(&mut self, key: &str, text: &str, origin: &str) -> Result<(), ConfigError> {
        if text.is_empty() {
            return Ok(());
        }
        let mut first = None;
        for candidate in candidates(text) {
            let tree = with(&self.tree, key, candidate);
            match self.try_tree(&tree) {
                Ok(()) => {
                    self.tree = tree;
                    return Ok(());
                }
                // The last reading is the most literal one, but the first one's complaint says what was wanted.
                Err(cause) => first = first.or(Some(cause)),
            }
        }
        Err(first.map_or_else(
            || ConfigError::UnknownKey { key: key.to_owned(), origin: origin.to_owned() },
            |cause| cause.at(key, origin),
        ))
    }

    /// Whether a tree is a configuration all of whose keys are known.
    fn try_tree(&self, tree: &Map<String, Value>) -> Result<(), Cause> {
        let config: T = parse(tree).map_err(|detail| match unknown_field(&detail) {
            Some(field) => Cause::Unknown(field),
            None => Cause::Invalid(detail),
        })?;
        // Where a struct forgot to refuse unknown fields, they are missing in what it gives back.
        let known = serde_json::to_value(&config).map_err(|error| Cause::Invalid(error.to_string()))?;
        match leaves(tree).into_iter().find(|(key, _)| known.pointer(&format!("/{}", key.replace('.', "/"))).is_none()) {
            Some((key, _)) => Err(Cause::Unknown(key)),
            None => Ok(()),
        }
    }
}

/// What is wrong with a tree.
enum Cause {
    Unknown(String),
    Invalid(String),
}

impl Cause {
    /// The error where no single key could be found guilty.
    fn at_its_own(self, origin: &str) -> ConfigError {
        let key = match &self {
            Self::Unknown(field) => field.clone(),
            Self::Invalid(_) => "the whole".to_owned(),
        };
        self.at(&key, origin)
    }

    fn at(self, key: &str, origin: &str) -> ConfigError {
        let (key, origin) = (key.to_owned(), origin.to_owned());
        match self {
            Self::Unknown(_) => ConfigError::UnknownKey { key, origin },
            Self::Invalid(detail) => ConfigError::Invalid { key, origin, detail },
        }
    }
}

fn parse<T: DeserializeOwned>(tree: &Map<String, Value>) -> Result<T, String> {
    serde_json::from_value(Value::Object(tree.clone())).map_err(|error| error.to_string())
}

/// The field that serde complains of, if that is its complaint.
fn unknown_field(detail: &str) -> Option<String> {
    Some(detail.strip_prefix("unknown field `")?.split('`').next().unwrap_or_default().to_owned())
}

/// How a text may be read, the more telling way first: as a number or truth value, as it stands, as a list.
fn candidates(text: &str) -> Vec<Value> {
    let scalar = serde_json::from_str(text).ok().filter(|value| matches!(value, Value::Number(_) | Value::Bool(_)));
    let list = text.split(',').map(|item| Value::String(item.trim().to_owned())).filter(|item| item != "").collect();
    scalar.into_iter().chain([Value::String(text.to_owned()), Value::Array(list)]).collect()
}

fn is_blank(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key, without_nulls(value))).collect(),
        ),
        other => other,
    }
}

/// The tree with one value more.
fn with(tree: &Map<String, Value>, key: &str, value: Value) -> Map<String, Value> {
    let mut tree = tree.clone();
    match key.split_once('.') {
        None => {
            tree.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = tree.get(section).and_then(Value::as_object).cloned().unwrap_or_default();
            tree.insert(section.to_owned(), Value::Object(with(&inner, rest, value)));
        }
    }
    tree
}

/// All values that are no mappings, with their keys.
fn leaves(tree: &Map<String, Value>) -> Vec<(String, Value)> {
    let inner = |(key, value): (&String, &Value)| match value {
        Value::Object(inner) if !inner.is_empty() => {
            leaves(inner).into_iter().map(|(rest, value)| (format!("{key}.{rest}"), value)).collect()
        }
        other => vec![(key.clone(), other.clone())],
    };
    tree.iter().flat_map(inner).collect()
}

/// A text that is never printed: a password, a key, a URL that holds one.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text. Do not log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    const fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "***" }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

#[cfg(test)]
mod tests;
