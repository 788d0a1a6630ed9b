//! What is owed for something that arrived, once it is dealt with: a settlement of the stream, or a part of an answer.

use std::sync::{Arc, Mutex, PoisonError};

use busbar_protocol::busbar::ReportReply;
use busbar_protocol::ports::{Bus, BusError, Delivery, Headers, Settlement};
use busbar_protocol::prost::Message as _;

/// The receipt for one message, or for one part of one.
#[derive(Debug)]
pub(crate) enum Receipt {
    /// The stream delivers it again until it is settled.
    Stream(Delivery),
    /// Whoever asked waits for word of all that the question had in it, and tells of it again without one.
    Asked(Slip),
}

/// One of the reports of a question.
#[derive(Debug)]
pub(crate) struct Slip {
    asked: Arc<Asked>,
    place: u32,
}

#[derive(Debug)]
struct Asked {
    reply: String,
    state: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    left: usize,
    again: Vec<u32>,
}

/// A slip for each of so many reports. The answer leaves with the last of them; where one is lost, none does.
pub(crate) fn slips(reply: String, count: usize) -> impl Iterator<Item = Slip> {
    let asked = Arc::new(Asked { reply, state: Mutex::new(Open { left: count, again: Vec::new() }) });
    (0..).take(count).map(move |place| Slip { asked: Arc::clone(&asked), place })
}

impl Slip {
    /// The answer, where this was the last slip.
    fn hand_in(self, settlement: Settlement) -> Option<ReportReply> {
        let mut open = self.asked.state.lock().unwrap_or_else(PoisonError::into_inner);
        open.left -= 1;
        match settlement {
            // What cannot be dealt with is over, too: told again, it would be no better.
            Settlement::Ack | Settlement::Term => {}
            Settlement::Nak(_) => open.again.push(self.place),
        }
        (open.left == 0).then(|| ReportReply { again: std::mem::take(&mut open.again), problem: None })
    }
}

impl Receipt {
    /// Gives what is owed.
    ///
    /// # Errors
    /// [`BusError`] where it was not sent: then it comes again.
    pub(crate) async fn settle<B: Bus>(self, bus: &B, settlement: Settlement) -> Result<(), BusError> {
        match self {
            Self::Stream(delivery) => bus.settle(&delivery, settlement).await,
            Self::Asked(slip) => {
                let asked = Arc::clone(&slip.asked);
                match slip.hand_in(settlement) {
                    Some(reply) => bus.publish(&asked.reply, Headers::new(), reply.encode_to_vec().into()).await,
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_last_slip_is_the_answer() {
        let mut slips = slips("inbox".into(), 3).collect::<Vec<_>>();
        let (last, second, first) = (slips.pop().expect("3"), slips.pop().expect("2"), slips.pop().expect("1"));
        assert_eq!(second.hand_in(Settlement::Nak(Duration::ZERO)), None);
        assert_eq!(last.hand_in(Settlement::Term), None);
        assert_eq!(first.hand_in(Settlement::Ack), Some(ReportReply { again: vec![1], problem: None }));
    }
}
