//! The topic documents with their schemas compiled, as the tasks around the event loop share them.

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_protocol::busbar::{LimitsDocument, TopicDocument, TopicDocuments};
use busbar_protocol::keys;
use busbar_protocol::ports::{CommitId, Records, StoreError};
use busbar_protocol::prost::Message as _;
use busbar_rules::schema::Schema;
use busbar_rules::topics::TopicTable;
use bytes::Bytes;

use crate::core::bounds::Bounds;

/// Reads the operator's bounds; none there means no bounds.
///
/// # Errors
/// [`StoreError`], also where they cannot be understood.
pub(crate) async fn bounds<R: Records>(records: &R) -> Result<Bounds, StoreError> {
    let key = keys::LIMITS.to_owned();
    let Some(stored) = records.read(vec![key.clone()]).await?.pop().flatten() else { return Ok(Bounds::default()) };
    let corrupt = |detail: String| StoreError::Corrupt { key: key.clone(), detail };
    let document = LimitsDocument::decode(stored.value).map_err(|error| corrupt(error.to_string()))?;
    Bounds::new(document).map_err(|error| corrupt(error.to_string()))
}

/// Topics and schemas.
#[derive(Default)]
pub(crate) struct Library {
    /// The documents.
    pub topics: TopicTable,
    /// The commit that wrote the record they were read from; none where there is no record.
    commit: Option<CommitId>,
    inputs: BTreeMap<String, Schema>,
    outputs: BTreeMap<String, Schema>,
}

impl Library {
    /// Reads the documents from the store; none there means no topics.
    ///
    /// # Errors
    /// [`StoreError`], also where the documents cannot be understood.
    pub(crate) async fn load<R: Records>(records: &R) -> Result<Arc<Self>, StoreError> {
        let key = keys::TOPICS.to_owned();
        let stored = records.read(vec![key.clone()]).await?.pop().flatten();
        let Some(stored) = stored else { return Ok(Arc::new(Self::default())) };
        let corrupt = |detail: String| StoreError::Corrupt { key: key.clone(), detail };
        let documents = TopicDocuments::decode(stored.value).map_err(|error| corrupt(error.to_string()))?;
        let library = Self::new(documents.topics).map_err(corrupt)?;
        Ok(Arc::new(Self { commit: Some(stored.commit), ..library }))
    }

    /// Which record it was read from, as [`busbar_protocol::busbar::SchedulerStatus`] tells it.
    #[must_use]
    pub(crate) fn commit(&self) -> Bytes {
        self.commit.map(|commit| Bytes::copy_from_slice(&commit.0)).unwrap_or_default()
    }

    /// Compiles documents.
    ///
    /// # Errors
    /// A sentence that says which document is wrong.
    pub(crate) fn new(documents: Vec<TopicDocument>) -> Result<Self, String> {
        let mut library = Self::default();
        for document in &documents {
            let compile = |text: &str| Schema::compile(text).map_err(|error| format!("topic {}: {error}", document.topic));
            if !document.input_schema.is_empty() {
                library.inputs.insert(document.topic.clone(), compile(&document.input_schema)?);
            }
            if !document.output_schema.is_empty() {
                library.outputs.insert(document.topic.clone(), compile(&document.output_schema)?);
            }
        }
        library.topics = TopicTable::new(documents).map_err(|error| error.to_string())?;
        Ok(library)
    }

    /// The schema of a topic's input, if its document has one.
    #[must_use]
    pub(crate) fn input_schema(&self, topic: &str) -> Option<&Schema> {
        self.inputs.get(&self.topics.resolve(topic)?.topic)
    }

    /// The schema of a topic's output, if its document has one.
    #[must_use]
    pub(crate) fn output_schema(&self, topic: &str) -> Option<&Schema> {
        self.outputs.get(&self.topics.resolve(topic)?.topic)
    }
}
