//! The model store and a real redis-server are asked the same: random batches from a seed, and every answer, record, index, log
//! and payload must be the same.
//!
//! `BUSBAR_CONFORMANCE_BATCHES` says how many batches, `BUSBAR_CONFORMANCE_SEED` which.

mod compare;
mod generate;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use busbar_protocol::ports::{Answer, CommitClass, Records, StoreError, Unit};
use busbar_protocol::time::Timestamp;
use busbar_servers::{Durability, Redis, RedisOptions, Search};
use busbar_simulator::chaos::Chaos;
use busbar_simulator::model_store::ModelStore;
use busbar_store::{Store, StoreConfig};
use futures::future::join_all;

use crate::generate::Generator;

const BATCHES_DEFAULT: u64 = 100_000;
/// How many batches are under way at once; between two windows everything else is compared.
const WINDOW: u64 = 64;

fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn seed() -> u64 {
    number_from_environment("BUSBAR_CONFORMANCE_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        now.as_secs()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_and_redis_agree() {
    let batches = number_from_environment("BUSBAR_CONFORMANCE_BATCHES").unwrap_or(BATCHES_DEFAULT);
    let seed = seed();
    let dir = tempfile::Builder::new().prefix("busbar-conformance-").tempdir().expect("a temporary folder");
    let binary = Search::from_env().find_redis().expect("a redis-server").path;
    let options = RedisOptions { durability: Durability::Fast, ..RedisOptions::new(dir.path(), binary) };
    let redis = Redis::start(options).expect("a running redis-server");
    let store = Store::connect(StoreConfig { call_timeout: Duration::from_secs(60), ..StoreConfig::new(redis.url()) });
    let store = store.await.expect("a connected store");
    let mut pair = Pair {
        model: ModelStore::new(Chaos::new(seed), Timestamp::wall_clock()),
        store,
        console: compare::Console::open(&redis),
        generator: Generator::new(seed),
        seed,
        answers: [0; 5],
    };
    let mut left = batches;
    while left > 0 {
        let window = left.min(WINDOW);
        pair.commit_window(window).await;
        pair.ask_other_things().await;
        left -= window;
    }
    compare::everything(&pair.model, &pair.store, &mut pair.console, seed).await;
    let [applied, already, conflicts, failed, refused] = pair.answers;
    // A key of the wrong kind refuses whatever meets it until it is deleted, which in some seeds takes long.
    assert!(applied > batches / 4, "seed {seed}: hardly anything was applied");
    for (rare, what) in [(already, "already"), (conflicts, "conflict"), (failed, "guard failed"), (refused, "refused")] {
        assert!(batches < 1000 || rare > 0, "seed {seed}: no answer was {what}");
    }
    assert!(pair.model.commits() >= applied, "seed {seed}");
}

struct Pair {
    model: ModelStore,
    store: Store,
    console: compare::Console,
    generator: Generator,
    seed: u64,
    /// Applied, already, conflict, guard failed, batches refused.
    answers: [u64; 5],
}

type Batch = (Vec<Unit>, Result<Vec<Answer>, StoreError>);

impl Pair {
    /// Batches are made one by one, each knowing the model as the one before left it, and sent to Redis all at once.
    async fn commit_window(&mut self, batches: u64) {
        let class = if self.generator.one_in(2) { CommitClass::Admit } else { CommitClass::Advance };
        let mut window: Vec<Batch> = Vec::new();
        for _ in 0..batches {
            let units = self.generator.batch(&self.model).await;
            let expected = self.model.commit(class, units.clone()).await;
            window.push((units, expected));
        }
        // All are polled in order, so they queue up in order.
        let real = join_all(window.iter().map(|(units, _)| self.store.commit(class, units.clone()))).await;
        for ((units, expected), real) in window.iter().zip(&real) {
            compare::answers(expected, real, units, self.seed);
            self.tally(expected);
        }
    }

    fn tally(&mut self, expected: &Result<Vec<Answer>, StoreError>) {
        let Ok(answers) = expected else {
            self.answers[4] += 1;
            return;
        };
        for answer in answers {
            let place = match answer {
                Answer::Applied { .. } => 0,
                Answer::Already => 1,
                Answer::Conflict { .. } => 2,
                Answer::GuardFailed { .. } => 3,
            };
            self.answers[place] += 1;
        }
    }

    async fn ask_other_things(&mut self) {
        for _ in 0..4 {
            let question = self.generator.question();
            let expected = question.ask(&self.model).await;
            let real = question.ask(&self.store).await;
            assert_eq!(expected, real, "seed {}: {question:?}", self.seed);
        }
        let key = self.generator.short_key();
        compare::one(&self.model, &self.store, &mut self.console, &key, self.seed).await;
    }
}
