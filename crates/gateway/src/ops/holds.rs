//! Pauses and drains: the scheduler keeps them, and answers after the commit with all that is there.

use std::time::Duration;

use busbar_api::{DrainRequest, DrainView, PauseRequest, PauseScope, PauseView, Problem};
use busbar_protocol::busbar::{self, Drain, DrainReply, PauseReply};
use busbar_protocol::ports::{Bus, Clock as _, Records};
use busbar_protocol::subjects;

use crate::app::{App, Caller};
use crate::core::hold;
use crate::error::{internal, of_wire};

const PATIENCE: Duration = Duration::from_secs(5);

/// Everything that is paused.
pub(crate) async fn pauses<B: Bus, R: Records>(app: &App<B, R>) -> Result<Vec<PauseView>, Problem> {
    ask_pauses(app, busbar::PauseRequest::default()).await
}

/// Pauses something, or changes the pause that it is in.
pub(crate) async fn pause<B: Bus, R: Records>(
    app: &App<B, R>,
    caller: &Caller,
    scope: PauseScope,
    name: &str,
    request: &PauseRequest,
) -> Result<PauseView, Problem> {
    let pause = hold::pause(hold::name(scope, name)?, request, caller.name(), app.clock.now())?;
    ask_pauses(app, busbar::PauseRequest { set: vec![pause.clone()], lift: Vec::new() }).await?;
    hold::pause_view(pause).ok_or_else(|| internal(&"a pause without a name was set"))
}

/// Lifts a pause, and tells what is still paused. What is not paused stays so.
pub(crate) async fn resume<B: Bus, R: Records>(
    app: &App<B, R>,
    scope: PauseScope,
    name: &str,
) -> Result<Vec<PauseView>, Problem> {
    let lift = vec![hold::name(scope, name)?];
    ask_pauses(app, busbar::PauseRequest { set: Vec::new(), lift }).await
}

async fn ask_pauses<B: Bus, R: Records>(app: &App<B, R>, question: busbar::PauseRequest) -> Result<Vec<PauseView>, Problem> {
    let reply: PauseReply = app.ask(subjects::SCHEDULER_PAUSE, &question, PATIENCE).await?;
    reply.problem.map_or_else(|| Ok(hold::pauses(reply.pauses)), |problem| Err(of_wire(problem)))
}

/// Lets a worker finish what it holds, and gives it nothing new.
pub(crate) async fn drain<B: Bus, R: Records>(
    app: &App<B, R>,
    caller: &Caller,
    worker_id: &str,
    request: &DrainRequest,
) -> Result<DrainView, Problem> {
    hold::plain("worker", worker_id)?;
    let drain = Drain {
        worker_id: worker_id.to_owned(),
        since_ms: app.clock.now().millis(),
        reason: hold::reason(request.reason.as_deref()),
        set_by: caller.name().to_owned(),
    };
    ask_drains(app, busbar::DrainRequest { set: vec![drain.clone()], lift: Vec::new() }).await?;
    Ok(hold::drain_view(drain))
}

/// Gives a worker work again, and tells which ones still drain.
pub(crate) async fn undrain<B: Bus, R: Records>(app: &App<B, R>, worker_id: &str) -> Result<Vec<DrainView>, Problem> {
    hold::plain("worker", worker_id)?;
    ask_drains(app, busbar::DrainRequest { set: Vec::new(), lift: vec![worker_id.to_owned()] }).await
}

async fn ask_drains<B: Bus, R: Records>(app: &App<B, R>, question: busbar::DrainRequest) -> Result<Vec<DrainView>, Problem> {
    let reply: DrainReply = app.ask(subjects::SCHEDULER_DRAIN, &question, PATIENCE).await?;
    reply.problem.map_or_else(|| Ok(hold::drains(reply.drains)), |problem| Err(of_wire(problem)))
}
