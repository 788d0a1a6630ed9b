//! Listening to those who want dead letters tried again, or thrown away.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;
use tokio::task::JoinSet;

use busbar_protocol::busbar::{
    AdmitAnswer, AdmitItem, Admitted, Problem, RedriveItem, RedriveReply, RedriveRequest, admit_answer,
};
use busbar_protocol::codes::Code;
use busbar_protocol::limits::ADMIT_ITEMS_MAX;
use busbar_protocol::ports::{Bus, BusError, Clock, Judge, Message, Records, StoreError};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;

use super::Ears;
use crate::core::commit::Letter;
use crate::input::{Admit, Input, Origin};
use crate::{intake, redrive};

impl<B: Bus, R: Records, C: Clock, J: Judge> Ears<B, R, C, J> {
    /// Dead letters are tried again one message at a time: that is never urgent.
    pub(super) async fn start_redriving(self: &Arc<Self>, tasks: &mut JoinSet<()>) -> Result<(), BusError> {
        let mut messages = self.ports.bus.subscribe(subjects::SCHEDULER_REDRIVE, Some(subjects::SCHEDULER_QUEUE)).await?;
        let ears = Arc::clone(self);
        tasks.spawn(async move {
            while let Some(message) = messages.next().await {
                ears.redrive(message).await;
            }
        });
        Ok(())
    }

    async fn redrive(&self, message: Message) {
        let Some(reply) = message.reply else { return };
        let received = Instant::now();
        let refuse =
            |code: Code, detail: String| RedriveReply { problem: Some(intake::problem(code, detail)), ..RedriveReply::default() };
        let request = match RedriveRequest::decode(message.payload) {
            Ok(request) => request,
            Err(error) => return self.answer(&reply, &refuse(Code::PacketMalformed, error.to_string())).await,
        };
        if request.items.len() > ADMIT_ITEMS_MAX {
            let detail = format!("{} items in one message, more than {ADMIT_ITEMS_MAX}", request.items.len());
            return self.answer(&reply, &refuse(Code::BatchTooLarge, detail)).await;
        }
        let letters = match redrive::read(&request.items, &self.ports.records).await {
            Ok(letters) => letters,
            Err(error) => return self.answer(&reply, &refuse(Code::StoreUnavailable, error.to_string())).await,
        };
        let discards = request.items.iter().filter(|item| item.new_job_id.is_empty()).count();
        if discards == request.items.len() {
            return self.discard(letters, &reply).await;
        }
        if discards > 0 {
            let detail = "one message either tries letters again or throws them away".to_owned();
            return self.answer(&reply, &refuse(Code::FieldInvalid, detail)).await;
        }
        match self.try_again(&request.items, letters).await {
            // The reply to a redrive has the form of the reply to a submission.
            Ok(outcomes) => self.send(Input::Admit(Admit { outcomes, origin: Origin::Asked { reply }, received })).await,
            Err(error) => self.answer(&reply, &refuse(Code::StoreUnavailable, error.to_string())).await,
        }
    }

    async fn try_again(
        &self,
        items: &[RedriveItem],
        letters: Vec<Result<Letter, Problem>>,
    ) -> Result<Vec<intake::Outcome>, StoreError> {
        let mut prepared = Vec::with_capacity(items.len());
        for (item, letter) in items.iter().zip(letters) {
            prepared.push(match letter {
                Ok(letter) => redrive::prepare(item, letter, &self.ports.records).await,
                Err(problem) => Err(problem),
            });
        }
        let submissions: Vec<AdmitItem> = prepared.iter().flatten().map(|again| again.item.clone()).collect();
        let mut outcomes = self.prepare(&submissions).await?.into_iter();
        let with_letters = prepared.into_iter().map(|again| {
            let again = again?;
            let mut outcome = outcomes.next().unwrap_or_else(|| Err(intake::problem(Code::Internal, "no outcome")))?;
            let job = Arc::make_mut(&mut outcome.job);
            job.redrive_of = again.letter.letter.job_id.clone();
            job.plan.idempotency_key.clear();
            outcome.birth.letter = Some(again.letter);
            Ok(outcome)
        });
        Ok(with_letters.collect())
    }

    async fn discard(&self, letters: Vec<Result<Letter, Problem>>, reply: &str) {
        let mut answers = Vec::with_capacity(letters.len());
        for letter in letters {
            let gone = match letter {
                Ok(letter) => redrive::discard(&letter, self.epoch, &self.ports.records).await,
                Err(problem) => Err(problem),
            };
            let answer = match gone {
                Ok(()) => admit_answer::Answer::Admitted(Admitted::default()),
                Err(problem) => admit_answer::Answer::Rejected(problem),
            };
            answers.push(AdmitAnswer { answer: Some(answer) });
        }
        self.answer(reply, &RedriveReply { answers, problem: None }).await;
    }
}
