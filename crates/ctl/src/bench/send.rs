//! A thread that submits: the next jobs when it is their time, again when it was told to wait.

use std::time::Duration;

use busbar_api::{BatchReply, Problem, SubmitReply};

use super::cell::Cell;
use crate::failure::Failure;

/// What became of some submissions.
#[derive(Debug, Default)]
struct Answer {
    job_ids: Vec<String>,
    /// Those that are to come again, and the longest wait they were told.
    again: u32,
    wait: Duration,
    /// Those that were refused for good, and why.
    refused: Vec<(String, String)>,
}

/// Sends until nothing is left to send.
pub(super) fn run(cell: &Cell<'_>) {
    let pace = cell.plan.pace;
    while cell.credit() {
        let Some(numbers) = cell.take(pace.per_call()) else { return };
        let due = pace.due(numbers.start);
        if let Some(due) = due {
            cell.sleep_until(due);
        }
        submit(cell, numbers.end - numbers.start, due);
    }
}

/// Submits so many jobs, however often it takes.
fn submit(cell: &Cell<'_>, mut count: u32, due: Option<Duration>) {
    let due = due.unwrap_or_else(|| cell.now());
    let call = cell.tally().begin(due, cell.now());
    // Waiting for permission is part of the latency: whoever submits has to wait, too.
    while count > 0 && !cell.is_over() {
        match post(cell, count) {
            Ok(answer) => count = take_in(cell, answer, due),
            Err(failure) => {
                unanswered(cell, count, failure);
                break;
            }
        }
    }
    cell.tally().over(call);
}

/// Notes what was answered, and waits if that was asked for. Gives back what is left to submit.
fn take_in(cell: &Cell<'_>, answer: Answer, due: Duration) -> u32 {
    let nothing_else = answer.job_ids.is_empty() && answer.again == 0;
    let first = answer.refused.first().cloned();
    let over = {
        let mut tally = cell.tally();
        answer.refused.iter().for_each(|(code, _)| tally.rejected(code, 1));
        tally.told_to_wait(answer.again.into());
        tally.accepted(answer.job_ids, due, cell.now())
    };
    cell.give_back(over + answer.refused.len());
    if let Some((code, detail)) = first.filter(|_| nothing_else && cell.tally().counts().accepted == 0) {
        // All are alike: the others would be refused as well.
        cell.fail(Failure::Failed(format!("the jobs are refused: {code}: {detail}")));
    }
    if answer.again > 0 {
        cell.sleep_until(cell.now() + answer.wait);
    }
    answer.again
}

fn unanswered(cell: &Cell<'_>, count: u32, failure: Failure) {
    let none_accepted = {
        let mut tally = cell.tally();
        tally.unanswered(count.into());
        tally.counts().accepted == 0
    };
    cell.give_back(count as usize);
    if none_accepted {
        cell.fail(failure);
    }
}

fn post(cell: &Cell<'_>, count: u32) -> Result<Answer, Failure> {
    let posted = if cell.plan.pace.per_call() == 1 {
        cell.client.post("/api/v1/jobs", &cell.request).map(|reply: SubmitReply| one(reply.job_id))
    } else {
        cell.client.submit_all(&vec![cell.request.clone(); count as usize]).map(many)
    };
    match posted {
        Err(Failure::Refused(problem)) => Ok(all_refused(&problem, count)),
        answered => answered,
    }
}

fn one(job_id: String) -> Answer {
    Answer { job_ids: vec![job_id], ..Answer::default() }
}

fn many(reply: BatchReply) -> Answer {
    let mut answer = Answer { job_ids: reply.job_ids.into_iter().flatten().collect(), ..Answer::default() };
    for rejection in reply.rejected {
        match rejection.retry_after_ms {
            Some(ms) => {
                answer.again += 1;
                answer.wait = answer.wait.max(Duration::from_millis(ms));
            }
            None => answer.refused.push((rejection.code, rejection.detail)),
        }
    }
    answer
}

fn all_refused(problem: &Problem, count: u32) -> Answer {
    match problem.retry_after_ms {
        Some(ms) => Answer { again: count, wait: Duration::from_millis(ms), ..Answer::default() },
        None => Answer { refused: vec![(problem.code.clone(), problem.detail.clone()); count as usize], ..Answer::default() },
    }
}

#[cfg(test)]
mod tests {
    use busbar_api::Rejection;

    use super::*;

    fn rejection(index: usize, retry_after_ms: Option<u64>) -> Rejection {
        Rejection { index, code: "rate_limited".into(), detail: "too fast".into(), retry_after_ms }
    }

    #[test]
    fn what_may_come_again_is_told_from_what_may_not() {
        let job_ids = vec![Some("a".to_owned()), None, None, None];
        let rejected = vec![rejection(1, Some(200)), rejection(2, None), rejection(3, Some(500))];
        let answer = many(BatchReply { job_ids, rejected });
        assert_eq!((answer.job_ids.len(), answer.again, answer.refused.len()), (1, 2, 1));
        assert_eq!(answer.wait, Duration::from_millis(500));
    }
}
