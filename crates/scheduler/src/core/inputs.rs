//! Inputs that came with their submissions, in memory until the first dispatch takes them along, so that no worker must read them.

use std::collections::BTreeMap;

use bytes::Bytes;

use busbar_protocol::ids::JobId;

/// How many bytes are kept at most; what comes beyond that is read by its worker.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// The inputs. All of them stand in the store as well: losing one costs a read.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    kept: BTreeMap<JobId, Bytes>,
    bytes: usize,
}

impl Inputs {
    /// Keeps an input, if there is room.
    pub fn keep(&mut self, id: &JobId, input: Bytes) {
        if self.bytes + input.len() <= KEPT_BYTES_MAX {
            self.bytes += input.len();
            if let Some(before) = self.kept.insert(id.clone(), input) {
                self.bytes -= before.len();
            }
        }
    }

    /// Lets go of an input; returns it, if it was kept.
    pub fn take(&mut self, id: &JobId) -> Option<Bytes> {
        let input = self.kept.remove(id)?;
        self.bytes -= input.len();
        Some(input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> JobId {
        JobId::parse(format!("j{number}")).expect("a good id")
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let mut inputs = Inputs::default();
        let input = Bytes::from(vec![1; 1 << 20]);
        (0..20).for_each(|number| inputs.keep(&id(number), input.clone()));
        assert_eq!(inputs.take(&id(15)), Some(input.clone()));
        assert_eq!(inputs.take(&id(15)), None);
        assert_eq!(inputs.take(&id(16)), None, "there was no room for it");
        inputs.keep(&id(16), input.clone());
        assert_eq!(inputs.take(&id(16)), Some(input.clone()));
        inputs.keep(&id(0), Bytes::from_static(b"[]"));
        inputs.keep(&id(17), input.clone());
        assert_eq!(inputs.take(&id(17)), Some(input));
        assert_eq!(inputs.take(&id(0)).as_deref(), Some(b"[]".as_slice()));
    }
}
