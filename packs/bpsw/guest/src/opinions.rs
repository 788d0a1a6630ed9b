//! The task types `judge` (a full judgement of single numbers: the second opinion on findings) and `verify` (claims of
//! counterexamples, each with its certificate).

use bpsw_arith::natural::Natural;
use bpsw_arith::verdict::{Effort, Judgement, Verdict, judge, proves_composite};
use serde::{Deserialize, Serialize};

use crate::certificates::{Claim, Proof};
use crate::failure::GuestError;
use crate::host::tell_progress;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JudgeInput {
    #[serde(rename = "task_type")]
    _task_type: String,
    numbers: Vec<String>,
}

#[derive(Debug, Serialize)]
struct JudgeOutput {
    task_type: &'static str,
    judgements: Vec<JudgedNumber>,
}

#[derive(Debug, Serialize)]
struct JudgedNumber {
    n: String,
    base_two: bool,
    lucas: bool,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<Proof>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyInput {
    #[serde(rename = "task_type")]
    _task_type: String,
    claims: Vec<Claim>,
}

#[derive(Debug, Serialize)]
struct VerifyOutput {
    task_type: &'static str,
    confirmed: Vec<Claim>,
    refused: Vec<Refused>,
}

#[derive(Debug, Serialize)]
struct Refused {
    n: String,
    reason: String,
}

/// Judges each number of the input, as JSON.
pub(crate) fn judgements(text: &[u8]) -> Result<Vec<u8>, GuestError> {
    let input: JudgeInput = serde_json::from_slice(text).map_err(GuestError::Input)?;
    let count = input.numbers.len();
    let judged = input.numbers.iter().enumerate().map(|(index, text)| {
        tell_progress(percent(index, count));
        let number = Natural::parse(text).map_err(|error| GuestError::Number { index, error })?;
        if !is_odd_above_one(&number) {
            return Err(GuestError::NotOdd { index });
        }
        Ok(judged(text, &judge(&number, Effort::Both)))
    });
    let judgements = judged.collect::<Result<_, _>>()?;
    serde_json::to_vec(&JudgeOutput { task_type: "judge", judgements }).map_err(GuestError::Output)
}

fn judged(text: &str, judgement: &Judgement) -> JudgedNumber {
    let certificate = match &judgement.verdict {
        Verdict::Counterexample(certificate) => Some(certificate.into()),
        Verdict::Composite | Verdict::Prime | Verdict::ProbablePrime => None,
    };
    JudgedNumber {
        n: text.to_owned(),
        base_two: judgement.base_two,
        lucas: judgement.lucas.is_some_and(|lucas| lucas.passes()),
        verdict: judgement.verdict.word(),
        certificate,
    }
}

/// Checks each claim of the input, as JSON: that the number passes both halves, and that the certificate proves it composite.
pub(crate) fn verified(text: &[u8]) -> Result<Vec<u8>, GuestError> {
    let input: VerifyInput = serde_json::from_slice(text).map_err(GuestError::Input)?;
    let (count, mut confirmed, mut refused) = (input.claims.len(), Vec::new(), Vec::new());
    for (index, claim) in input.claims.into_iter().enumerate() {
        tell_progress(percent(index, count));
        match check(&claim) {
            Ok(()) => confirmed.push(claim),
            Err(reason) => refused.push(Refused { n: claim.n, reason }),
        }
    }
    serde_json::to_vec(&VerifyOutput { task_type: "verify", confirmed, refused }).map_err(GuestError::Output)
}

/// Whether a claim holds; if not, why.
pub(crate) fn check(claim: &Claim) -> Result<(), String> {
    let (number, certificate) = claim.parse().map_err(|error| format!("a number of it {error}"))?;
    if !is_odd_above_one(&number) {
        return Err("it is even, or below 3".to_owned());
    }
    let judgement = judge(&number, Effort::Both);
    if !judgement.base_two {
        return Err("it fails the strong test to base 2".to_owned());
    }
    if !judgement.lucas.is_some_and(|lucas| lucas.passes()) {
        return Err("it fails the strong Lucas test".to_owned());
    }
    if !proves_composite(&number, &certificate) {
        return Err("the certificate does not prove it composite".to_owned());
    }
    Ok(())
}

fn is_odd_above_one(number: &Natural) -> bool {
    number.is_odd() && *number > Natural::from(1)
}

fn percent(index: usize, count: usize) -> i32 {
    i32::try_from(index * 100 / count.max(1)).expect("at most 100")
}
