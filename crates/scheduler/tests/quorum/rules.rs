//! The rules of verdicts and of what they say of owners, as tables.
//!
//! Voices are written `owner word`: `?` awaited, `=x` said x, `+x` has proven x, `#x` said x and that is disproven, `!f` failed with code f,
//! `-` lost; `_` has no owner yet. The first letter of an owner says what is known of it: `n` nothing, `v` a long good record, `r` was found
//! wrong once, `b` is barred.

use busbar_rules::replication::{Terms, TrustTerms};
use busbar_scheduler::core::quorum::credit::{Credit, Outcome, WRONG_MAX};
use busbar_scheduler::core::quorum::vote::{Verdict, Voice, Word, judge, outcomes};

fn quorum(quorum: u32, replicas_max: u32) -> Terms {
    Terms { quorum, replicas_max, trust: None }
}

/// Four newcomers must agree, five against one rival; 41 comparisons make an owner believed.
fn trust(replicas_max: u32) -> Terms {
    Terms { quorum: 2, replicas_max, trust: Some(TrustTerms { error_max: 1e-3, liars_max: 0.1, audit_share: 0.05 }) }
}

fn voices(text: &str) -> Vec<Voice> {
    (0_u32..).zip(text.split_whitespace()).map(|(replica, voice)| voice_of(replica, voice)).collect()
}

fn voice_of(replica: u32, text: &str) -> Voice {
    let end = text.find(['?', '=', '+', '#', '!', '-']).unwrap_or(text.len());
    let (owner, word) = text.split_at(end);
    let word = match word.split_at_checked(1) {
        None | Some(("?", _)) => Word::Awaited,
        Some(("=", said)) => Word::Said([said.as_bytes()[0]; 32]),
        Some(("+", proven)) => Word::Proven([proven.as_bytes()[0]; 32]),
        Some(("#", said)) => Word::Disproven([said.as_bytes()[0]; 32]),
        Some(("!", code)) => Word::Failed { code: code.to_owned() },
        Some(_) => Word::Lost,
    };
    let owner = owner.trim_start_matches('_').to_owned();
    Voice { replica, worker_id: owner.clone(), owner, word }
}

fn credit(owner: &str) -> Credit {
    match owner.as_bytes()[0] {
        b'v' => Credit { agreed: 1_000, wrong: 0 },
        b'r' => Credit { agreed: 0, wrong: 1 },
        b'b' => Credit { agreed: 0, wrong: WRONG_MAX },
        _ => Credit::default(),
    }
}

fn accept(replica: u32, dissenters: &[u32]) -> Verdict {
    Verdict::Accept { replica, dissenters: dissenters.to_vec() }
}

fn fail(replica: u32, code: &str) -> Verdict {
    Verdict::Fail { replica, code: code.to_owned() }
}

const fn ask(more: u32) -> Verdict {
    Verdict::Ask { more }
}

fn hold(terms: &Terms, audited: bool, table: &[(&str, Verdict)]) {
    for (text, verdict) in table {
        assert_eq!(judge(terms, &voices(text), &credit, audited), *verdict, "{text:?}");
    }
}

#[test]
fn the_first_quorum_of_owners_that_agree_wins() {
    let table = [
        ("", ask(2)),
        ("_ _", Verdict::Wait),
        ("a? b?", Verdict::Wait),
        ("a=x b?", Verdict::Wait),
        ("a=x b=x", accept(0, &[])),
        ("a=x b=y", ask(1)),
        ("a=x b=y _", Verdict::Wait),
        ("a=x b=y c=y", accept(1, &[0])),
        ("a=x b=y c=z", ask(1)),
        ("a=x b=y c=z d=z", accept(2, &[0, 1])),
        ("a=x b=y c=z d=w", Verdict::Split),
        // Without trust nobody has a record, not even a bad one.
        ("b1=x b2=x", accept(0, &[])),
    ];
    hold(&quorum(2, 4), false, &table);
    let larger =
        [("", ask(3)), ("a=x", ask(2)), ("a=x b=y", ask(2)), ("a=x b=y c?", ask(1)), ("a=x b=y c=y d? e=z", Verdict::Wait)];
    hold(&quorum(3, 9), false, &larger);
    hold(&quorum(1, 1), false, &[("", ask(1)), ("a=x", accept(0, &[])), ("a-", Verdict::Split)]);
}

#[test]
fn what_is_lost_is_replaced_while_that_lasts() {
    let table = [
        ("a? b-", ask(1)),
        ("a- b-", ask(2)),
        ("a- b- c=x", ask(1)),
        ("a- b- c- d?", Verdict::Split),
        ("_- a=x b=x", accept(1, &[])),
    ];
    hold(&quorum(2, 4), false, &table);
}

#[test]
fn an_owner_counts_once_and_one_that_contradicts_itself_not_at_all() {
    let table = [
        ("a=x a=x", ask(1)),
        ("a=x a?", ask(1)),
        ("a=x a=x b=x", accept(0, &[])),
        ("a=x a=y", ask(2)),
        ("a=x a=y b=x", ask(1)),
        ("a=x a!f b=x", ask(1)),
        ("a=x a=y b=x c=x", accept(2, &[1])),
        ("a=x a- b=x", accept(0, &[])),
    ];
    hold(&quorum(2, 4), false, &table);
}

#[test]
fn that_it_fails_is_agreed_on_as_a_result_is() {
    let table = [
        ("a!f", ask(1)),
        ("a!f b!g", fail(0, "f")),
        ("a!f b=x", ask(1)),
        ("a!f b=x c=x", accept(1, &[])),
        ("a=x b!g c!f", fail(1, "g")),
    ];
    hold(&quorum(2, 4), false, &table);
}

#[test]
fn whoever_is_trusted_is_believed_alone_and_newcomers_by_number() {
    let table = [
        ("", ask(1)),
        ("_", Verdict::Wait),
        ("v1?", Verdict::Wait),
        ("v1=x", accept(0, &[])),
        // Nobody knows who comes next: it may be somebody trusted.
        ("n1?", ask(1)),
        ("n1? _", Verdict::Wait),
        ("n1? v1?", Verdict::Wait),
        ("n1=x v1?", Verdict::Wait),
        ("n1? v1=x", accept(1, &[])),
        ("n1=x v1=x", accept(0, &[])),
        ("n1? n2? n3?", ask(1)),
        ("n1? n2? n3? n4?", Verdict::Wait),
        ("n1=x n2=x n3=x", ask(1)),
        ("n1=x n2=x n3=x n4=x", accept(0, &[])),
        ("v1-", ask(1)),
        ("v1=x v1=y", ask(1)),
    ];
    hold(&trust(9), false, &table);
}

#[test]
fn once_owners_contradict_each_other_only_their_number_counts() {
    let table = [
        ("v1=x v2=y", ask(4)),
        ("v1=x v2=y _ n1?", ask(2)),
        ("v1=x v2=y n1? n2? n3? n4?", Verdict::Wait),
        ("v1=x v2=y n1=y n2=y n3=y", ask(1)),
        ("v1=x v2=y n1=y n2=y n3=y n4=y", accept(1, &[0])),
        ("n1=x v1=y n2=y n3=y n4=y n5=y", accept(1, &[0])),
        // Two rivals take one more to outvote, and those that are left are not enough.
        ("v1=x v2=y n1=x n2=y", ask(4)),
        ("v1=x v2=y n1=x n2=y n3=x n4=y", Verdict::Split),
    ];
    hold(&trust(9), false, &table);
}

#[test]
fn a_proof_is_above_all_voices() {
    let table = [
        ("n1+x", accept(0, &[])),
        ("b1+x", accept(0, &[])),
        ("v1=y v2=y n1+x n2+z", accept(2, &[])),
        ("n1!f n2!f n3+x", accept(2, &[])),
        ("n1#x", ask(1)),
        ("n1#x v1=y", accept(1, &[])),
        ("n1#x n2#x n3#y n4#y n5#y n6?", Verdict::Split),
    ];
    hold(&trust(6), false, &table);
    hold(&quorum(1, 3), false, &[("a#x", ask(1)), ("a#x b=y", accept(1, &[])), ("a#x b#x c#x", Verdict::Split)]);
    let refuted = |owner: &str| (owner.to_owned(), Outcome::Refuted);
    assert_eq!(learned("v1=y n1+x n2#z", &accept(1, &[])), [("n1".to_owned(), Outcome::Confirmed), refuted("n2")]);
    assert_eq!(learned("n1#x v1=y", &accept(1, &[])), [refuted("n1")]);
    assert_eq!(learned("n1#x n2#x", &Verdict::Split), [refuted("n1"), refuted("n2")]);
    assert_eq!(learned("n1#x", &ask(1)), [], "not before the job is decided");
    assert_eq!(outcomes(&quorum(1, 3), &voices("n1#x n2=y"), &credit, &accept(1, &[])), []);
}

#[test]
fn those_found_wrong_add_nothing_and_those_barred_are_not_heard() {
    let table = [
        ("n1=x n2=x n3=x r1=x", ask(1)),
        ("n1=x n2=x n3=x n4=x r1?", accept(0, &[])),
        ("r1=x v1=x", accept(0, &[])),
        // They can still contradict.
        ("r1=x v1?", Verdict::Wait),
        ("r1=x v1=y", ask(3)),
        ("b1?", ask(1)),
        ("b1=x", ask(1)),
        ("b1=x v1=y", accept(1, &[0])),
    ];
    hold(&trust(9), false, &table);
}

#[test]
fn an_audit_begins_when_the_first_has_spoken_and_needs_somebody_else_who_is_as_good() {
    let table = [
        ("", ask(1)),
        ("v1?", Verdict::Wait),
        ("v1=x", ask(1)),
        ("v1=x v2?", Verdict::Wait),
        ("v1=x v2=x", accept(0, &[])),
        ("v1=x n1?", ask(1)),
        ("v1=x n1=x", ask(1)),
        ("v1=x n1=x v2=x", accept(0, &[])),
        ("v1=x n1=x n2=x n3=x", accept(0, &[])),
        ("n1=x n2=x n3=x n4=x", accept(0, &[])),
        ("v1=x v2=y", ask(4)),
        ("v1=x v2-", ask(1)),
    ];
    hold(&trust(9), true, &table);
    // An audit for which nobody is left is none.
    hold(
        &trust(4),
        true,
        &[("v1=x n1- n2=x", ask(1)), ("v1=x n1- n2=x n3-", accept(0, &[])), ("v1=x n1- n2- n3=y", Verdict::Split)],
    );
}

#[test]
fn nobody_is_believed_alone_that_it_fails() {
    let table = [
        ("v1!f", ask(1)),
        ("v1!f v2!g", fail(0, "f")),
        ("v1!f n1!g", fail(0, "f")),
        ("n1!f n2!f", ask(1)),
        // A machine may break: what fails contradicts no result.
        ("v1!f v2=x", accept(1, &[])),
        ("v1!f n1=x", ask(1)),
        // But a result contradicts those that fail.
        ("n1=x v1!f v2!f", ask(3)),
        ("n1=x v1!f v2!f v3!f v4!f v5!f", fail(1, "f")),
    ];
    hold(&trust(9), false, &table);
    hold(&trust(9), true, &[("v1!f v2!g", fail(0, "f")), ("v1!f n1!g", fail(0, "f"))]);
}

fn learned(text: &str, verdict: &Verdict) -> Vec<(String, Outcome)> {
    outcomes(&trust(9), &voices(text), &credit, verdict)
}

#[test]
fn credit_is_for_those_without_whose_record_the_result_would_count() {
    use Outcome::{Confirmed, Failed, Refuted};
    let table = [
        ("v1=x", accept(0, &[]), vec![]),
        // A trusted owner is not confirmed by a newcomer, who may be its accomplice.
        ("v1=x n1=x", accept(0, &[]), vec![("n1", Confirmed)]),
        ("v1=x r1=x", accept(0, &[]), vec![("r1", Confirmed)]),
        ("v1=x v2=x", accept(0, &[]), vec![("v1", Confirmed), ("v2", Confirmed)]),
        ("n1=x n2=x n3=x n4=x", accept(0, &[]), vec![("n1", Confirmed), ("n2", Confirmed), ("n3", Confirmed), ("n4", Confirmed)]),
        ("v1=x n1? n2- b1=y", accept(0, &[3]), vec![]),
        ("v1=x n1!f", accept(0, &[]), vec![("n1", Failed)]),
        ("v1!f v2!g", fail(0, "f"), vec![("v1", Confirmed), ("v2", Confirmed)]),
        ("v1=x n1=x n1=y", accept(0, &[2]), vec![("n1", Refuted)]),
        ("v1=x n1=x n1!f", accept(0, &[]), vec![("n1", Failed)]),
    ];
    for (text, verdict, expected) in table {
        let expected: Vec<_> = expected.iter().map(|&(owner, outcome)| (owner.to_owned(), outcome)).collect();
        assert_eq!(learned(text, &verdict), expected, "{text:?}");
    }
}

#[test]
fn whoever_is_outvoted_is_refuted() {
    let refuted = |text: &str, verdict: &Verdict| -> Vec<String> {
        learned(text, verdict).into_iter().filter(|(_, outcome)| *outcome == Outcome::Refuted).map(|(owner, _)| owner).collect()
    };
    assert_eq!(refuted("v1=x v2=y n1=y n2=y n3=y n4=y", &accept(1, &[0])), ["v1"]);
    assert_eq!(refuted("n1=x v1!f v2!f v3!f v4!f v5!f", &fail(1, "f")), ["n1"]);
}

#[test]
fn a_verdict_that_later_voices_put_in_doubt_says_nothing_of_anybody() {
    assert_eq!(learned("v1=x n1=y", &accept(0, &[])), []);
    assert_eq!(learned("v1=x n1=y v2=x", &accept(0, &[])), []);
    assert_eq!(learned("v1=x v2=x n1=y", &Verdict::Split), []);
    assert_eq!(outcomes(&quorum(2, 4), &voices("v1=x v2=x"), &credit, &accept(0, &[])), []);
}

/// Whatever is said by whom, a verdict is one that can be carried out.
#[test]
fn every_verdict_can_be_carried_out() {
    let words = ["?", "=x", "=y", "!f", "-"];
    for terms in [quorum(2, 5), quorum(1, 4), quorum(3, 4), trust(9), trust(4)] {
        for number in 0..words.len().pow(4) {
            let word = |place: u32| words[number / words.len().pow(place) % words.len()];
            let text = format!("v1{} v1{} n1{} r1{}", word(0), word(1), word(2), word(3));
            for audited in [false, true] {
                check(&terms, &text, &judge(&terms, &voices(&text), &credit, audited));
            }
        }
    }
}

fn check(terms: &Terms, text: &str, verdict: &Verdict) {
    let voices = voices(text);
    let word = |replica: u32| &voices[replica as usize].word;
    match verdict {
        Verdict::Wait => assert!(text.contains('?'), "{text}: nothing to wait for"),
        Verdict::Ask { more } => {
            assert!(*more >= 1 && voices.len() + *more as usize <= terms.replicas_max as usize, "{text}: {verdict:?}");
        }
        Verdict::Accept { replica, dissenters } => {
            assert!(matches!(word(*replica), Word::Said(_)) && !dissenters.contains(replica), "{text}: {verdict:?}");
            assert!(
                dissenters.iter().all(|&other| matches!(word(other), Word::Said(_)) && word(other) != word(*replica)),
                "{text}: {verdict:?}"
            );
        }
        Verdict::Fail { replica, code } => assert_eq!(*word(*replica), Word::Failed { code: code.clone() }, "{text}"),
        Verdict::Split => {}
    }
}
