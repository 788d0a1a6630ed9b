//! Where everything is, for programs (`endpoints.json`) and for people.

use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;

/// The content of `endpoints.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Endpoints {
    /// The gateway, `http://host:port`.
    pub(crate) http: String,
    /// The gateway's gRPC server, `host:port`; null where there is none.
    pub(crate) grpc: Option<String>,
    /// The bus, `nats://…`.
    pub(crate) nats: String,
    /// The store, `redis://…`.
    pub(crate) redis: String,
    /// The blobs, `file:///…`.
    pub(crate) blobs: String,
    /// A key with every role.
    pub(crate) api_key: String,
    /// The process of `dev`.
    pub(crate) pid: u32,
}

/// What people are told besides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) workers: usize,
    pub(crate) packs: &'a [String],
}

/// Tells people that everything is there.
pub(crate) fn tell(endpoints: &Endpoints, summary: &Summary<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let told = write_summary(&mut out, endpoints, summary).and_then(|()| out.flush());
    match told {
        // Whoever started us does not want to read it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        told => told,
    }
}

fn write_summary(out: &mut impl io::Write, endpoints: &Endpoints, summary: &Summary<'_>) -> io::Result<()> {
    let Summary { dir, workers, packs } = summary;
    writeln!(out, "Busbar is ready.")?;
    writeln!(out, "  http     {}", endpoints.http)?;
    if let Some(grpc) = &endpoints.grpc {
        writeln!(out, "  grpc     {grpc}")?;
    }
    writeln!(out, "  nats     {}", shown(&endpoints.nats))?;
    writeln!(out, "  redis    {}", shown(&endpoints.redis))?;
    writeln!(out, "  data     {}", dir.display())?;
    writeln!(out, "  workers  {workers}")?;
    writeln!(out, "  packs    {}", if packs.is_empty() { "none".to_owned() } else { packs.join(", ") })?;
    writeln!(out, "The API key stands in {}. Ctrl-C ends everything.", dir.join("endpoints.json").display())
}

fn shown(url: &str) -> String {
    crate::config::ServerUrl::new(url).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_members_that_others_rely_on() {
        let endpoints = Endpoints { pid: 7, ..Endpoints::default() };
        let text = serde_json::to_string(&endpoints).expect("plain members");
        assert_eq!(text, r#"{"http":"","grpc":null,"nats":"","redis":"","blobs":"","api_key":"","pid":7}"#);
    }

    #[test]
    fn people_see_no_secrets() {
        let endpoints = Endpoints { redis: "redis://u:geheim@h:1".into(), api_key: "bb_secret".into(), ..Endpoints::default() };
        let mut out = Vec::new();
        let packs = ["smoke 0.1.0".to_owned()];
        let summary = Summary { dir: Path::new("/data"), workers: 2, packs: &packs };
        write_summary(&mut out, &endpoints, &summary).expect("written");
        let text = String::from_utf8(out).expect("text");
        assert!(!text.contains("geheim") && !text.contains("bb_secret"), "{text}");
        assert!(text.contains("workers  2") && text.contains("packs    smoke 0.1.0"), "{text}");
    }
}
