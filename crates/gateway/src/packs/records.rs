//! The records of packs and topics, as they are read and written.

use busbar_api::Problem;
use busbar_protocol::busbar::{PackRecord, TopicDocument, TopicDocuments};
use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::ports::{Guard, IndexRange, Records, StoreError, Stored, Write};
use busbar_protocol::prost::{DecodeError, Message as _};
use bytes::Bytes;

use crate::core::pack::Installed;
use crate::error::of_store;

/// The most packs of a cell.
const PACKS_MAX: u64 = 1000;
const READ_MAX: usize = 256;

/// A pack with the revision of its record.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) pack: Installed,
    pub(super) revision: u64,
}

/// All topics, with the revision of their record; 0 where there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Topics {
    pub(super) documents: Vec<TopicDocument>,
    revision: u64,
}

pub(super) async fn find<R: Records>(records: &R, pack_id: &str) -> Result<Option<Found>, StoreError> {
    let key = keys::pack(pack_id);
    let stored = records.read(vec![key.clone()]).await?.into_iter().next().flatten();
    stored.map(|stored| Ok(Found { pack: decode(&key, &stored)?, revision: stored.revision })).transpose()
}

/// All packs, by id.
pub(super) async fn all<R: Records>(records: &R) -> Result<Vec<Installed>, StoreError> {
    let range = IndexRange { min: i64::MIN, max: i64::MAX, newest_first: false, offset: 0, limit: PACKS_MAX };
    let entries = records.index(keys::INDEX_PACKS, range).await?;
    let keys: Vec<String> = entries.iter().map(|entry| keys::pack(&entry.member)).collect();
    let mut packs = Vec::with_capacity(keys.len());
    for keys in keys.chunks(READ_MAX) {
        let stored = records.read(keys.to_vec()).await?;
        // What is gone was uninstalled between the two questions.
        let found = keys.iter().zip(stored).filter_map(|(key, stored)| Some(decode(key, &stored?)));
        packs.extend(found.collect::<Result<Vec<_>, _>>()?);
    }
    packs.sort_by(|a, b| a.pack_id.cmp(&b.pack_id));
    Ok(packs)
}

/// Refuses another pack where there are as many as there may be.
pub(super) async fn refuse_more<R: Records>(records: &R) -> Result<(), Problem> {
    let packs = all(records).await.map_err(|error| of_store(&error))?;
    if (packs.len() as u64) < PACKS_MAX {
        return Ok(());
    }
    Err(Problem::new(Code::PackConflict, format!("{PACKS_MAX} packs are installed, and there cannot be more")))
}

pub(super) async fn topics<R: Records>(records: &R) -> Result<Topics, StoreError> {
    let stored = records.read(vec![keys::TOPICS.to_owned()]).await?.into_iter().next().flatten();
    let Some(stored) = stored else { return Ok(Topics::default()) };
    let decoded = TopicDocuments::decode(stored.value).map_err(|error| corrupt(keys::TOPICS, &error))?;
    Ok(Topics { documents: decoded.topics, revision: stored.revision })
}

/// The commit that wrote the topics, as a scheduler tells it: empty where there are none.
pub(super) async fn topics_commit<R: Records>(records: &R) -> Result<Bytes, StoreError> {
    let stored = records.read(vec![keys::TOPICS.to_owned()]).await?.into_iter().next().flatten();
    Ok(stored.map(|stored| Bytes::copy_from_slice(&stored.commit.0)).unwrap_or_default())
}

impl Topics {
    /// The guard and the write that make these the topics instead. No topics at all need no record.
    pub(super) fn replaced_by(&self, documents: Vec<TopicDocument>) -> (Guard, Option<Write>) {
        let key = keys::TOPICS.to_owned();
        let guard = match self.revision {
            0 => Guard::Absent { key: key.clone() },
            revision => Guard::Revision { key: key.clone(), revision },
        };
        let write = if documents == self.documents {
            None
        } else if documents.is_empty() {
            Some(Write::Delete { key })
        } else {
            let value = TopicDocuments { version: 1, topics: documents }.encode_to_vec().into();
            Some(Write::Put { key, revision: self.revision + 1, value, expire: None })
        };
        (guard, write)
    }
}

fn decode(key: &str, stored: &Stored) -> Result<Installed, StoreError> {
    let record = PackRecord::decode(stored.value.clone()).map_err(|error| corrupt(key, &error))?;
    Installed::from_record(record).map_err(|detail| StoreError::Corrupt { key: key.to_owned(), detail: detail.to_owned() })
}

fn corrupt(key: &str, error: &DecodeError) -> StoreError {
    StoreError::Corrupt { key: key.to_owned(), detail: error.to_string() }
}
