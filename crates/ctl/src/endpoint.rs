//! Finding the stack: `--url`, else the `endpoints.json` that `busbar dev` leaves in its data folder.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use crate::client::Client;
use crate::failure::Failure;

const FILE: &str = "endpoints.json";

/// Where the stack is.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct StackArgs {
    /// The gateway, for example http://127.0.0.1:8081. Default: what endpoints.json says.
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// The API key. Default: what endpoints.json says.
    #[arg(long, global = true, value_name = "KEY", env = "BUSBAR_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The data folder of `busbar dev`.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The path of endpoints.json.
    #[arg(long = "endpoints", global = true, value_name = "FILE", env = "BUSBAR_ENDPOINTS")]
    endpoints: Option<PathBuf>,
}

/// The members of `endpoints.json` that matter here.
#[derive(Debug, Deserialize)]
struct Endpoints {
    http: String,
    api_key: Option<String>,
}

/// A client for the stack that the arguments name.
pub(crate) fn connect(args: &StackArgs) -> Result<Client, Failure> {
    let (url, api_key) = match &args.url {
        Some(url) => (url.clone(), args.api_key.clone()),
        None => {
            let found = read(&path(args, |name| std::env::var_os(name).map(PathBuf::from))?)?;
            (found.http, args.api_key.clone().or(found.api_key))
        }
    };
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        return Err(Failure::Usage(format!("the URL {url:?} must begin with http:// or https://")));
    }
    Ok(Client::new(&url, api_key))
}

/// Where `endpoints.json` should be: the nearest word counts, so that a flag wins over the environment.
fn path(args: &StackArgs, env: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(dir) = &args.data_dir {
        return Ok(dir.join(FILE));
    }
    if let Some(file) = &args.endpoints {
        return Ok(file.clone());
    }
    let given = |name: &str| env(name).filter(|path| path.is_absolute());
    let state = given("XDG_STATE_HOME").or_else(|| given("HOME").map(|home| home.join(".local/state")));
    let none = || Failure::Usage("neither XDG_STATE_HOME nor HOME is set: name the stack with --data-dir or --url".to_owned());
    Ok(state.ok_or_else(none)?.join("busbar/dev").join(FILE))
}

fn read(path: &Path) -> Result<Endpoints, Failure> {
    let failure = |detail: String| Failure::NoStack { path: path.to_owned(), detail };
    let text = std::fs::read_to_string(path).map_err(|error| failure(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| failure(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<PathBuf> {
        (name == "HOME").then(|| PathBuf::from("/home/me"))
    }

    #[test]
    fn the_nearest_word_counts() {
        let mut args = StackArgs::default();
        assert_eq!(path(&args, env).ok(), Some("/home/me/.local/state/busbar/dev/endpoints.json".into()));
        args.endpoints = Some("/e.json".into());
        assert_eq!(path(&args, env).ok(), Some("/e.json".into()));
        args.data_dir = Some("/data".into());
        assert_eq!(path(&args, env).ok(), Some("/data/endpoints.json".into()));
        assert!(path(&StackArgs::default(), |_| None).is_err());
        let state = |name: &str| (name == "XDG_STATE_HOME").then(|| PathBuf::from("/state"));
        assert_eq!(path(&StackArgs::default(), state).ok(), Some("/state/busbar/dev/endpoints.json".into()));
    }

    #[test]
    fn a_file_that_is_not_there_is_told_with_its_path() {
        let dir = tempfile::tempdir().expect("a folder");
        let args = StackArgs { data_dir: Some(dir.path().to_owned()), ..StackArgs::default() };
        let failure = connect(&args).expect_err("nothing there");
        assert!(matches!(&failure, Failure::NoStack { path, .. } if path.starts_with(dir.path())), "{failure}");
        std::fs::write(dir.path().join(FILE), r#"{"http":"http://127.0.0.1:1","grpc":null,"api_key":"k","pid":1}"#)
            .expect("written");
        assert!(connect(&args).is_ok());
    }

    #[test]
    fn a_url_needs_no_file() {
        let args = StackArgs { url: Some("http://127.0.0.1:1/".into()), ..StackArgs::default() };
        assert!(connect(&args).is_ok());
        let args = StackArgs { url: Some("127.0.0.1:1".into()), ..StackArgs::default() };
        assert!(matches!(connect(&args), Err(Failure::Usage(_))));
    }
}
