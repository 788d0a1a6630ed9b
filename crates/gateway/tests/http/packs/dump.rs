//! Everything that stands in Redis, read as Redis itself tells it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

/// What a record begins with: its revision and the id of its commit, which differ each time that the same is written.
const HEAD: usize = 24;

/// Every key with its content; of records, without their heads. The lease on packs is left out: its epoch stays for ever.
pub(super) fn dump(redis_url: &str) -> BTreeMap<String, String> {
    let address = redis_url.trim_start_matches("redis://").split('/').next().expect("an address");
    let mut redis = Redis(BufReader::new(TcpStream::connect(address).expect("redis")));
    let keys = redis.ask(&["KEYS", "*"]);
    let mut all = BTreeMap::new();
    for key in keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).filter(|key| key != "lock:packs") {
        let kind = redis.ask(&["TYPE", &key]);
        let content = match kind[0].as_slice() {
            b"string" => redis.ask(&["GET", &key]).iter().map(|value| value[HEAD.min(value.len())..].to_vec()).collect(),
            b"zset" => redis.ask(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]),
            b"hash" => redis.ask(&["HGETALL", &key]),
            other => panic!("{key} is a {other:?}"),
        };
        let shown = content.iter().map(|part| part.escape_ascii().to_string()).collect::<Vec<_>>().join(" | ");
        all.insert(key, shown);
    }
    all
}

/// A connection that asks one thing after another.
struct Redis(BufReader<TcpStream>);

impl Redis {
    fn ask(&mut self, words: &[&str]) -> Vec<Vec<u8>> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(request.as_bytes()).expect("sent");
        self.answer()
    }

    fn answer(&mut self) -> Vec<Vec<u8>> {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("an answer");
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "+" | ":" => vec![rest.as_bytes().to_vec()],
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().expect("a length") + 2];
                self.0.read_exact(&mut bytes).expect("the value");
                bytes.truncate(bytes.len() - 2);
                vec![bytes]
            }
            "*" => (0..rest.parse::<usize>().expect("a number")).flat_map(|_| self.answer()).collect(),
            _ => panic!("{line}"),
        }
    }
}
