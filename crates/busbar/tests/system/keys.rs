//! `busbar key` and `busbar probe`: what operators and health checks type.

use std::process::Output;

use busbar_servers::Stack;

use crate::support::program;

fn busbar(stack: &Stack, args: &[&str]) -> Output {
    program().args(args).env("REDIS_URL", stack.redis.url()).output().unwrap()
}

fn said(text: &[u8]) -> String {
    String::from_utf8(text.to_vec()).unwrap()
}

#[test]
fn keys_are_made_listed_and_revoked() {
    let stack = Stack::start_temp().unwrap();
    let made = busbar(&stack, &["key", "create", "--name", "ci", "--role", "submitter", "--role", "viewer", "--tenant", "acme"]);
    // Nothing but the key: a script keeps what it reads.
    let key = said(&made.stdout);
    assert!(made.status.success() && key.starts_with("bb_") && key.trim().len() == 67, "{made:?}");
    assert!(said(&made.stderr).contains("ci of tenant acme, submitter, viewer"), "{made:?}");

    let listed = busbar(&stack, &["key", "list"]);
    let lines: Vec<String> = said(&listed.stdout).lines().map(str::to_owned).collect();
    assert!(lines.len() == 2 && lines[1].contains("acme") && lines[1].ends_with("submitter,viewer"), "{lines:?}");
    assert!(!said(&listed.stdout).contains(key.trim()));

    assert!(busbar(&stack, &["key", "revoke", &lines[1][..12]]).status.success());
    let again = busbar(&stack, &["key", "revoke", "ci"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again.stderr).contains("no key has the name or id"), "{again:?}");
    assert_eq!(said(&busbar(&stack, &["key", "list"]).stdout).lines().count(), 1);

    let bad = busbar(&stack, &["key", "create", "--name", "bootstrap", "--role", "admin"]);
    assert_eq!(bad.status.code(), Some(2), "{bad:?}");
}

#[test]
fn a_probe_of_what_does_not_answer_fails() {
    let output = program().args(["probe", "http://127.0.0.1:1/readyz"]).env("BUSBAR_HTTP__LISTENS", "nonsense").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output.stderr).contains("127.0.0.1:1 does not answer"), "{output:?}");
}
