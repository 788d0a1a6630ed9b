//! Reading very much at once, as somebody does who takes over a long queue.
//!
//! It has connections of its own, so that neither commits nor short reads stand behind it. They are made when they are needed first:
//! most never need them. Redis writes 64 KiB at most to a connection before it goes on with everything else, a call of 256 units
//! and its `fsync` among that, so there are several; and calls are small and many, so that the next answer is on its way while one is
//! taken apart.

use busbar_protocol::ports::{StoreError, Stored};
use bytes::Bytes;
use fred::types::{Resp3Frame as Frame, Value};
use futures::future::try_join_all;
use tokio::sync::OnceCell;

use crate::config::StoreConfig;
use crate::lane::{Lane, Repeat};
use crate::{connect, decode};

/// How many connections.
const LANES: usize = 4;
/// How many records one call reads: about what Redis writes to a connection at once.
const READS_MAX: usize = 64;

/// Reads in bulk.
#[derive(Debug)]
pub(crate) struct Bulk {
    config: StoreConfig,
    lanes: OnceCell<Vec<Lane>>,
}

impl Bulk {
    pub(crate) const fn new(config: StoreConfig) -> Self {
        Self { config, lanes: OnceCell::const_new() }
    }

    /// Reads records, in the order of the keys.
    pub(crate) async fn read(&self, keys: &[String]) -> Result<Vec<Option<Stored>>, StoreError> {
        let lanes = self.lanes().await?;
        let calls = keys.chunks(READS_MAX).zip(lanes.iter().cycle()).map(|(keys, lane)| read(lane, keys));
        Ok(try_join_all(calls).await?.into_iter().flatten().collect())
    }

    /// Asks something whose answer is large.
    pub(crate) async fn call(&self, command: &'static str, args: Vec<Value>) -> Result<Frame, StoreError> {
        self.lanes().await?[0].call(command, args, Repeat::Harmless).await
    }

    async fn lanes(&self) -> Result<&[Lane], StoreError> {
        let connect = || try_join_all((0..LANES).map(|_| connect::connect(&self.config, "bulk")));
        Ok(self.lanes.get_or_try_init(connect).await?)
    }
}

async fn read(lane: &Lane, keys: &[String]) -> Result<Vec<Option<Stored>>, StoreError> {
    let frames = decode::array(lane.call("MGET", in_one_piece(keys), Repeat::Harmless).await?)?;
    if frames.len() != keys.len() {
        return Err(decode::refused(&format!("Redis gave {} answers to {} questions", frames.len(), keys.len())));
    }
    keys.iter().zip(frames).map(|(key, frame)| decode::stored(key, frame)).collect()
}

/// Arguments that are parts of one piece of memory, instead of several pieces for each of very many.
fn in_one_piece(texts: &[String]) -> Vec<Value> {
    let mut rest = Bytes::from(texts.concat());
    texts.iter().map(|text| Value::Bytes(rest.split_to(text.len()))).collect()
}
