//! Asking a service whether it is well, as its health check in the compose file would.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long one answer may take.
const ONE_ANSWER: Duration = Duration::from_secs(5);

/// A health check, with the addresses of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// A GET that must be answered with 200: `busbar probe URL`, and `wget … URL` where the image has no program of ours.
    Http(String),
    /// A PING of Redis: `redis-cli -p PORT ping`.
    Redis(u16),
}

impl Health {
    /// Reads a health check's command, already mapped. Nothing for one that is not known here.
    pub(crate) fn parse(test: &[String]) -> Option<Self> {
        let words: Vec<&str> = test.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["CMD", "busbar", "probe", url] | ["CMD", "wget", .., url] => Some(Self::Http((*url).to_owned())),
            ["CMD", "redis-cli", options @ .., "ping"] => {
                let flag = options.iter().position(|option| *option == "-p")?;
                Some(Self::Redis(options.get(flag + 1)?.parse().ok()?))
            }
            _ => None,
        }
    }

    /// Asks once; if it is not well, what was answered.
    pub(crate) fn ask(&self, busbar: &Path) -> Result<(), String> {
        match self {
            Self::Http(url) => http(busbar, url),
            Self::Redis(port) => redis(*port).map_err(|error| error.to_string()),
        }
    }
}

/// The very program that containers ask with.
fn http(busbar: &Path, url: &str) -> Result<(), String> {
    let mut command = Command::new(busbar);
    let output = command.args(["probe", url]).env_clear().stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", busbar.display()))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

fn redis(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), ONE_ANSWER)?;
    stream.set_read_timeout(Some(ONE_ANSWER))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.trim() == "+PONG" { Ok(()) } else { Err(std::io::Error::other(answer.trim().to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checks_of_the_compose_file_are_understood() {
        let parsed = |text: &str| Health::parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let http = |url: &str| Some(Health::Http(url.to_owned()));
        assert_eq!(parsed("CMD busbar probe http://127.0.0.1:1/readyz"), http("http://127.0.0.1:1/readyz"));
        assert_eq!(parsed("CMD wget -q -O /dev/null http://127.0.0.1:1/healthz"), http("http://127.0.0.1:1/healthz"));
        assert_eq!(parsed("CMD redis-cli -e -p 20001 ping"), Some(Health::Redis(20_001)));
        assert_eq!(parsed("CMD-SHELL true"), None);
    }
}
