//! Whose a job is: packets on the bus name a job, but not its tenant.

use std::collections::HashMap;

/// Whose a job is, and of which topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whose {
    pub(crate) tenant_id: String,
    pub(crate) topic: String,
}

/// What is known of live jobs. Whatever is missing can be read again, so when there is too much of it, all of it goes.
#[derive(Debug)]
pub(crate) struct Owners {
    by_job: HashMap<String, Whose>,
    max: usize,
}

impl Owners {
    pub(crate) fn new(max: usize) -> Self {
        Self { by_job: HashMap::new(), max }
    }

    pub(crate) fn learn(&mut self, job_id: &str, whose: Whose) {
        if self.by_job.len() >= self.max {
            self.by_job.clear();
        }
        self.by_job.insert(job_id.to_owned(), whose);
    }

    pub(crate) fn forget(&mut self, job_id: &str) {
        self.by_job.remove(job_id);
    }

    pub(crate) fn get(&self, job_id: &str) -> Option<&Whose> {
        self.by_job.get(job_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_bound() {
        let mut owners = Owners::new(2);
        let whose = Whose { tenant_id: "t".into(), topic: "job.x".into() };
        for job_id in ["a", "b", "c"] {
            owners.learn(job_id, whose.clone());
        }
        assert_eq!((owners.get("a"), owners.get("c")), (None, Some(&whose)));
        owners.forget("c");
        assert_eq!(owners.get("c"), None);
    }
}
