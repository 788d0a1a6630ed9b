//! The bare connection: asks, publishes, stores, and listens.

use busbar_bus::Bare;
use bytes::Bytes;

use crate::support::{PATIENCE, Server};

const ASKED: &str = "bare.asked";
const STORED: &str = "bare.stored";

async fn until(listener: &busbar_bus::BareListener, messages: u64) {
    let mut heard = listener.heard();
    let enough = tokio::time::timeout(PATIENCE, heard.wait_for(|heard| *heard >= messages)).await;
    assert!(enough.is_ok_and(|heard| heard.is_ok()), "{messages} messages were not heard");
}

#[tokio::test]
async fn whoever_listens_hears_everything_and_answers_whoever_asked() {
    let server = Server::start();
    let (one, other) =
        (Bare::connect(&server.config()).await.expect("connects"), Bare::connect(&server.config()).await.expect("connects"));
    let listener = other.listen(ASKED).await.expect("listens");
    one.publish(ASKED, Bytes::from_static(b"nobody asks")).await.expect("sent");
    let answer = one.ask(ASKED, Bytes::from_static(b"is there anybody")).await;
    assert_eq!(answer.expect("answered"), Bytes::from_static(b"is there anybody"));
    until(&listener, 2).await;
}

#[tokio::test]
async fn a_message_is_stored_only_where_there_is_a_stream() {
    let server = Server::start();
    let bare = Bare::connect(&server.config()).await.expect("connects");
    assert!(bare.store(STORED, Bytes::from_static(b"lost")).await.is_err());
    bare.make_stream("BARE", STORED, 1 << 20).await.expect("made");
    bare.store(STORED, Bytes::from_static(b"kept")).await.expect("stored");
}
