//! The other side: Python with the published SDK, a process that answers questions (`peer.py`).

use std::io::{BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The SDK as a process; it ends with the value.
pub(crate) struct Peer {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start() -> Self {
        let packages = std::env::var_os("BUSBAR_TEST_CAP_SDK")
            .expect("BUSBAR_TEST_CAP_SDK names the folder of the published SDK: run tools/test interop");
        let mut child = Command::new("python3")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/peer.py"))
            .env("PYTHONPATH", packages)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, questions, answers }
    }

    /// Asks; an error holds what the SDK said when it refused.
    pub(crate) fn ask(&mut self, question: char, values: [&[u8]; 3]) -> Result<Vec<u8>, String> {
        let mut message = vec![u8::try_from(question).expect("a letter")];
        for value in values {
            message.extend_from_slice(&u32::try_from(value.len()).expect("short").to_be_bytes());
            message.extend_from_slice(value);
        }
        self.questions.as_mut().expect("open").write_all(&message).expect("the peer listens");
        let mut head = [0; 5];
        self.answers.read_exact(&mut head).expect("the peer answers");
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut answer = vec![0; usize::try_from(length).expect("short")];
        self.answers.read_exact(&mut answer).expect("the peer answers");
        if head[0] == 0 { Ok(answer) } else { Err(String::from_utf8_lossy(&answer).into_owned()) }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It ends when nobody asks any more.
        drop(self.questions.take());
        let _ = self.child.wait();
    }
}
