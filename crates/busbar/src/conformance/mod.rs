//! `busbar conformance`: answers CAP's conformance kit as a control plane, one JSON object a line on stdin and stdout.
//!
//! ```text
//!  runner ──{"type":"hello"}──────────────────────────────▶ ──▶ {"type":"handshake", protocolVersion 1, role "control-plane", …}
//!  runner ──{"type":"run", id, scenario, params}──────────▶ ──▶ {"type":"result", id, status, detail, evidence}
//!  runner ──{"type":"bye"}, or the end of its words───────▶ end
//! ```
//!
//! That is "CAP TCK adapter protocol, adapter-v1". What a case asks is put to the scheduler's own core, as it runs in every cell;
//! neither a bus nor a store is needed.

mod cases;
mod scene;

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use cases::{CASES, Params};

/// The version of the kit's protocol.
const PROTOCOL: u32 = 1;
/// The longest line, by that protocol.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Why the conversation ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConformanceError {
    #[error("line {line} is longer than {LINE_BYTES_MAX} bytes")]
    TooLong { line: usize },
    #[error("line {line} is no message of the conformance kit")]
    Unreadable {
        line: usize,
        #[source]
        source: serde_json::Error,
    },
    #[error("line {line}: a case before `hello`")]
    Unasked { line: usize },
    #[error("there is no case {name:?}; a runner asks for: {known}")]
    NoSuchCase { name: String, known: String },
    #[error("the runner cannot be heard or told")]
    Runner(#[from] io::Error),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Asked {
    Hello {},
    Run {
        id: String,
        scenario: String,
        #[serde(default)]
        params: Params,
    },
    Bye {},
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Told {
    #[serde(rename_all = "camelCase")]
    Handshake {
        protocol_version: u32,
        role: &'static str,
        profiles: [&'static str; 2],
        features: [&'static str; 5],
        sdk: &'static str,
        transport: &'static str,
    },
    Result {
        id: String,
        status: Status,
        #[serde(skip_serializing_if = "String::is_empty")]
        detail: String,
        evidence: BTreeMap<&'static str, String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Pass,
    Fail,
    Error,
    Unsupported,
    #[serde(rename = "N/A")]
    NotApplicable,
}

/// Talks with a runner until it says good-bye. `without` names a case whose rule is switched off, to show that the case can fail.
pub(crate) fn talk(without: Option<&str>, from: &mut impl BufRead, to: &mut impl Write) -> Result<(), ConformanceError> {
    if let Some(name) = without.filter(|name| !CASES.iter().any(|case| case.name == *name)) {
        let known: Vec<_> = CASES.iter().map(|case| case.name).collect();
        return Err(ConformanceError::NoSuchCase { name: name.to_owned(), known: known.join(", ") });
    }
    let mut greeted = false;
    for line in 1.. {
        let Some(text) = read_line(from, line)? else { break };
        if text.trim_ascii().is_empty() {
            continue;
        }
        let asked = serde_json::from_slice(&text).map_err(|source| ConformanceError::Unreadable { line, source })?;
        let told = match asked {
            Asked::Bye {} => break,
            Asked::Hello {} => {
                greeted = true;
                handshake()
            }
            Asked::Run { .. } if !greeted => return Err(ConformanceError::Unasked { line }),
            Asked::Run { id, scenario, params } => answer(id, &scenario, &params, without),
        };
        serde_json::to_writer(&mut *to, &told).map_err(io::Error::from)?;
        to.write_all(b"\n")?;
        to.flush()?;
    }
    Ok(())
}

fn read_line(from: &mut impl BufRead, line: usize) -> Result<Option<Vec<u8>>, ConformanceError> {
    let mut text = Vec::new();
    let read = io::Read::take(&mut *from, LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut text)?;
    if read > LINE_BYTES_MAX && text.last() != Some(&b'\n') {
        return Err(ConformanceError::TooLong { line });
    }
    Ok((read > 0).then_some(text))
}

const fn handshake() -> Told {
    Told::Handshake {
        protocol_version: PROTOCOL,
        role: "control-plane",
        profiles: ["core", "cap-production"],
        features: ["cancel", "negotiation", "retries", "safety", "timeouts"],
        sdk: concat!("busbar/", env!("CARGO_PKG_VERSION")),
        transport: "nats",
    }
}

fn answer(id: String, scenario: &str, params: &Params, without: Option<&str>) -> Told {
    let told = |status, detail: String, evidence| Told::Result { id, status, detail, evidence };
    let Some(case) = CASES.iter().find(|case| case.name == scenario) else {
        // The kit names the cases of a worker so, and it is not a control plane's to answer them.
        let of_workers = scenario.starts_with("malformed/") || scenario.contains("/worker-");
        let (status, detail) = if of_workers {
            (Status::NotApplicable, "a case for workers")
        } else {
            (Status::Unsupported, "no such case is known")
        };
        return told(status, detail.to_owned(), BTreeMap::new());
    };
    match (case.check)(params, without != Some(case.name)) {
        Ok(evidence) => told(Status::Pass, String::new(), evidence),
        Err(cases::Unmet::Violated(detail)) => told(Status::Fail, detail, BTreeMap::new()),
        Err(cases::Unmet::Unreadable(detail)) => told(Status::Error, detail, BTreeMap::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &str) -> (String, Result<(), ConformanceError>) {
        let mut told = Vec::new();
        let ended = talk(None, &mut lines.as_bytes(), &mut told);
        (String::from_utf8(told).expect("JSON"), ended)
    }

    #[test]
    fn what_is_no_message_ends_the_conversation() {
        for (lines, wanted) in [
            ("{\"type\":\"hello\",\"more\":1}\n", "line 1 is no message"),
            ("\n\nhello\n", "line 3 is no message"),
            ("{\"type\":\"run\",\"id\":\"a\",\"scenario\":\"b\"}\n", "line 1: a case before"),
        ] {
            let error = said(lines).1.expect_err("refused").to_string();
            assert!(error.starts_with(wanted), "{error}");
        }
        let long = format!("{{\"type\":\"hello\"}}\n{}\n", "x".repeat(LINE_BYTES_MAX + 1));
        assert!(matches!(said(&long).1, Err(ConformanceError::TooLong { line: 2 })));
    }

    #[test]
    fn what_is_not_ours_is_said_to_be_so() {
        let (told, ended) = said(concat!(
            "{\"type\":\"hello\"}\n",
            "{\"type\":\"run\",\"id\":\"1\",\"scenario\":\"lifecycle/worker-running-to-failed\",\"params\":{}}\n",
            "{\"type\":\"run\",\"id\":\"2\",\"scenario\":\"tea/cp-makes-tea\"}\n",
            "{\"type\":\"bye\"}\nnever read\n",
        ));
        ended.expect("a good conversation");
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 3, "{told}");
        assert!(lines[0].contains("\"protocolVersion\":1") && lines[0].contains("\"role\":\"control-plane\""), "{told}");
        assert!(lines[1].contains("\"N/A\"") && lines[2].contains("\"UNSUPPORTED\""), "{told}");
    }
}
