//! Adding parts up on the workers: one reduce, or a tree of them when the parts do not fit into one input.

use busbar_api::{JobView, SubmitRequest};
use serde::Serialize;
use serde_json::value::RawValue;

use super::collect::run_all;
use crate::client::{Client, encode};
use crate::failure::Failure;

const TOPIC: &str = "job.wordcount.reduce";
/// Parts of one reduce: below the 1 MiB that an input may have, with room for what stands around them.
const PARTS_BYTES_MAX: usize = 1000 * 1024;

#[derive(Serialize)]
struct Input<'a> {
    parts: &'a [Box<RawValue>],
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<u32>,
}

/// The jobs of a tree of reduces, and its result.
pub(super) struct Reduced {
    pub(super) result: Box<RawValue>,
    pub(super) views: Vec<JobView>,
}

/// Adds up until one part is left, which lists its `top` words.
pub(super) fn run(client: &Client, mut parts: Vec<Box<RawValue>>, top: u32) -> Result<Reduced, Failure> {
    let mut all = Vec::new();
    loop {
        let groups = group(&parts.iter().map(|part| part.get().len()).collect::<Vec<_>>())
            .ok_or_else(|| Failure::Failed("the texts hold too many different words for one reduce".to_owned()))?;
        let last = groups.len() == 1;
        let (mut requests, mut rest) = (Vec::new(), &parts[..]);
        for length in groups {
            let (own, others) = rest.split_at(length);
            rest = others;
            let input = Input { parts: own, top: last.then_some(top) };
            requests.push(SubmitRequest::new(TOPIC, &input).map_err(std::io::Error::from)?);
        }
        let views = run_all(client, "reduce", &requests)?;
        parts = views.iter().map(|view| result(client, view)).collect::<Result<_, _>>()?;
        all.extend(views);
        if let (true, Some(result)) = (last, parts.pop()) {
            return Ok(Reduced { result, views: all });
        }
    }
}

/// The result of a job, also where its view does not carry it.
pub(super) fn result(client: &Client, view: &JobView) -> Result<Box<RawValue>, Failure> {
    if let Some(result) = &view.result {
        return Ok(result.clone());
    }
    let path = format!("/api/v1/jobs/{}/result", encode(&view.id));
    let bytes = client.get_bytes(&path)?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::Unreadable { path, detail: error.to_string() })
}

/// How many parts each reduce gets. `None` when no two parts fit together, so that there would be no end.
fn group(sizes: &[usize]) -> Option<Vec<usize>> {
    let mut groups: Vec<usize> = Vec::new();
    let mut bytes = 0;
    for size in sizes {
        let fits = bytes + size < PARTS_BYTES_MAX;
        match groups.last_mut() {
            Some(group) if fits => {
                *group += 1;
                bytes += size + 1;
            }
            _ => {
                groups.push(1);
                bytes = size + 1;
            }
        }
    }
    if groups.is_empty() {
        groups.push(0);
    }
    let fewer = groups.len() == 1 || groups.len() < sizes.len();
    let each_fits = sizes.iter().all(|size| *size < PARTS_BYTES_MAX);
    (fewer && each_fits).then_some(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_grouped_in_order_below_the_bound() {
        assert_eq!(group(&[]), Some(vec![0]));
        assert_eq!(group(&[10, 20, 30]), Some(vec![3]));
        assert_eq!(group(&[400 * 1024; 5]), Some(vec![2, 2, 1]));
        assert_eq!(group(&[600 * 1024; 3]), None);
        assert_eq!(group(&[PARTS_BYTES_MAX]), None);
    }
}
