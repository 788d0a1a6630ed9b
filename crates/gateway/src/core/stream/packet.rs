//! CAP packets as the JSON form of protobuf shows them: names in camel case, defaults left out, 64-bit numbers as texts.
//! Secrets (signature, tokens) and what a worker noted for itself are left out, long texts are cut.

use busbar_protocol::cap::{
    AlertSeverity, BusPacket, DispatchIdentity, Heartbeat, JobProgress, JobResult, JobStatus, SystemAlert,
};
use busbar_protocol::time::Timestamp;
use serde_json::{Map, Value, json};

const TEXT_CHARACTERS_MAX: usize = 1_000;
const LIST_ENTRIES_MAX: usize = 64;

/// The members of a frame after its cursor: the packet with this payload under this name.
pub(crate) fn body(subject: &str, packet: &BusPacket, name: &str, payload: Map<String, Value>) -> String {
    let mut fields = Fields::default();
    fields.text("traceId", &packet.trace_id);
    fields.text("senderId", &packet.sender_id);
    if let Some(created) = &packet.created_at {
        fields.text("createdAt", &Timestamp::from_proto(created).to_string());
    }
    fields.number("protocolVersion", packet.protocol_version);
    fields.0.insert(name.to_owned(), Value::Object(payload));
    format!(r#""subject":"{subject}","packet":{}"#, Value::Object(fields.0))
}

pub(crate) fn progress(progress: &JobProgress) -> Map<String, Value> {
    let mut fields = Fields::default();
    fields.text("jobId", &progress.job_id);
    fields.text("stepId", &progress.step_id);
    fields.number("percent", progress.percent);
    fields.text("message", &progress.message);
    fields.text("resultPtr", &progress.result_ptr);
    fields.list("artifactPtrs", &progress.artifact_ptrs);
    fields.status(progress.status());
    fields.dispatch(progress.dispatch.as_ref());
    fields.0
}

pub(crate) fn result(result: &JobResult) -> Map<String, Value> {
    let mut fields = Fields::default();
    fields.text("jobId", &result.job_id);
    fields.status(result.status());
    fields.text("resultPtr", &result.result_ptr);
    fields.text("workerId", &result.worker_id);
    if result.execution_ms != 0 {
        fields.text("executionMs", &result.execution_ms.to_string());
    }
    fields.text("errorCode", &result.error_code);
    fields.text("errorMessage", &result.error_message);
    fields.list("artifactPtrs", &result.artifact_ptrs);
    if result.error_code_enum != 0 {
        fields.text("errorCodeEnum", result.error_code_enum().as_str_name());
    }
    fields.dispatch(result.dispatch.as_ref());
    fields.0
}

pub(crate) fn heartbeat(beat: &Heartbeat) -> Map<String, Value> {
    let mut fields = Fields::default();
    fields.text("workerId", &beat.worker_id);
    fields.text("region", &beat.region);
    fields.text("type", &beat.r#type);
    fields.load("cpuLoad", beat.cpu_load);
    fields.load("gpuUtilization", beat.gpu_utilization);
    fields.number("activeJobs", beat.active_jobs);
    fields.list("capabilities", &beat.capabilities);
    fields.text("pool", &beat.pool);
    fields.number("maxParallelJobs", beat.max_parallel_jobs);
    fields.map("labels", beat.labels.iter());
    fields.load("memoryLoad", beat.memory_load);
    fields.number("progressPct", beat.progress_pct);
    fields.text("agentName", &beat.agent_name);
    fields.0
}

pub(crate) fn alert(alert: &SystemAlert) -> Map<String, Value> {
    let mut fields = Fields::default();
    fields.text("level", &alert.level);
    fields.text("message", &alert.message);
    fields.text("component", &alert.component);
    fields.text("code", &alert.code);
    if alert.severity() != AlertSeverity::Unspecified {
        fields.text("severity", alert.severity().as_str_name());
    }
    if alert.error_code_enum != 0 {
        fields.text("errorCodeEnum", alert.error_code_enum().as_str_name());
    }
    fields.text("sourceComponent", &alert.source_component);
    fields.map("details", alert.details.iter());
    fields.text("traceId", &alert.trace_id);
    fields.0
}

/// Members that are not defaults.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.0.insert(name.to_owned(), cut(text).into());
        }
    }

    fn number(&mut self, name: &str, number: i32) {
        if number != 0 {
            self.0.insert(name.to_owned(), number.into());
        }
    }

    /// A load that is no number is left out: JSON has no word for it.
    fn load(&mut self, name: &str, load: f32) {
        if load != 0.0 && load.is_finite() {
            self.0.insert(name.to_owned(), json!(load));
        }
    }

    fn list(&mut self, name: &str, texts: &[String]) {
        if !texts.is_empty() {
            let texts: Vec<String> = texts.iter().take(LIST_ENTRIES_MAX).map(|text| cut(text)).collect();
            self.0.insert(name.to_owned(), texts.into());
        }
    }

    fn map<'a>(&mut self, name: &str, entries: impl Iterator<Item = (&'a String, &'a String)>) {
        let entries: Map<String, Value> =
            entries.take(LIST_ENTRIES_MAX).map(|(name, value)| (cut(name), cut(value).into())).collect();
        if !entries.is_empty() {
            self.0.insert(name.to_owned(), entries.into());
        }
    }

    fn status(&mut self, status: JobStatus) {
        if status != JobStatus::Unspecified {
            self.text("status", status.as_str_name());
        }
    }

    fn dispatch(&mut self, dispatch: Option<&DispatchIdentity>) {
        let Some(dispatch) = dispatch else { return };
        let mut fields = Self::default();
        fields.text("dispatchId", &dispatch.dispatch_id);
        if dispatch.attempt != 0 {
            fields.text("attempt", &dispatch.attempt.to_string());
        }
        fields.text("assignedWorkerId", &dispatch.assigned_worker_id);
        self.0.insert("dispatch".to_owned(), fields.0.into());
    }
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_form_of_protobuf() {
        let dispatch = DispatchIdentity { dispatch_id: "d".into(), attempt: 2, ..DispatchIdentity::default() };
        let told = progress(&JobProgress {
            job_id: "a".into(),
            percent: 40,
            status: JobStatus::Running.into(),
            dispatch: Some(dispatch),
            ..JobProgress::default()
        });
        let packet = BusPacket {
            trace_id: "t".into(),
            sender_id: "w".into(),
            created_at: Some(Timestamp::from_millis(1_700_000_000_000).to_proto()),
            protocol_version: 1,
            auth_token: "secret".into(),
            signature: b"secret".to_vec().into(),
            ..BusPacket::default()
        };
        let body = format!("{{{}}}", body("sys.job.progress", &packet, "jobProgress", told));
        let expected = json!({"subject": "sys.job.progress", "packet": {
            "traceId": "t", "senderId": "w", "createdAt": "2023-11-14T22:13:20.000Z", "protocolVersion": 1,
            "jobProgress": {"jobId": "a", "percent": 40, "status": "JOB_STATUS_RUNNING", "dispatch": {"dispatchId": "d", "attempt": "2"}}
        }});
        assert_eq!(serde_json::from_str::<Value>(&body).expect("JSON"), expected);
        assert!(!body.contains("secret"));
    }

    #[test]
    fn secrets_and_nonsense_do_not_go_out() {
        let beat = Heartbeat {
            worker_id: "w".into(),
            cpu_load: f32::NAN,
            memory_load: 12.5,
            auth_token: "secret".into(),
            last_memo: "of a job".into(),
            labels: [("a".to_owned(), "x".repeat(5_000))].into(),
            ..Heartbeat::default()
        };
        let told = heartbeat(&beat);
        assert_eq!(told["labels"]["a"].as_str().map(str::len), Some(TEXT_CHARACTERS_MAX));
        assert_eq!(told.keys().collect::<Vec<_>>(), ["labels", "memoryLoad", "workerId"]);
    }

    #[test]
    fn numbers_of_64_bits_are_texts() {
        let told = result(&JobResult { execution_ms: 30, error_code_enum: 200, ..JobResult::default() });
        assert_eq!(Value::Object(told), json!({"executionMs": "30", "errorCodeEnum": "ERROR_CODE_JOB_TIMEOUT"}));
        let told = alert(&SystemAlert { severity: AlertSeverity::Warning.into(), code: "x".into(), ..SystemAlert::default() });
        assert_eq!(Value::Object(told), json!({"severity": "ALERT_SEVERITY_WARNING", "code": "x"}));
    }
}
