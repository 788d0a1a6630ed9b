//! The marked blocks of a guide. The first word of a fence is the language, as anywhere; a second one says what to do:
//!
//! | fence | |
//! |---|---|
//! | `sh run` | run it; it must succeed |
//! | `sh run fails=N` | run it; it must end with status N |
//! | `sh run until` | run it again and again until it shows what follows |
//! | `sh background` | start it, and leave it running |
//! | `<language> file=PATH` | write it to a file, seen from where the shell is |
//! | `<language> shows` | what the run before shows: these lines in this order, among others; `…` stands for anything |
//!
//! All others are for reading only.

/// A step of a guide.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// Write a file.
    File {
        /// Where, seen from the shell's folder.
        path: String,
        /// What.
        text: String,
    },
    /// Run commands.
    Run {
        /// The commands.
        script: String,
        /// How the last one ends.
        status: i32,
        /// Whether to repeat it until it shows what it should.
        until: bool,
        /// The lines that it shows.
        shows: Vec<String>,
    },
    /// Start something that goes on.
    Background {
        /// The commands.
        script: String,
    },
}

/// The blocks that are marked, in order.
pub(crate) fn blocks(guide: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        if let Some(marks) = line.strip_prefix("```") {
            let text: String = lines.by_ref().take_while(|line| *line != "```").flat_map(|line| [line, "\n"]).collect();
            add(&mut blocks, marks, text);
        }
    }
    blocks
}

fn add(blocks: &mut Vec<Block>, marks: &str, text: String) {
    let words: Vec<&str> = marks.split_whitespace().skip(1).collect();
    match words[..] {
        [] => {}
        ["run"] => blocks.push(Block::Run { script: text, status: 0, until: false, shows: Vec::new() }),
        ["run", "until"] => blocks.push(Block::Run { script: text, status: 0, until: true, shows: Vec::new() }),
        ["background"] => blocks.push(Block::Background { script: text }),
        ["shows"] => match blocks.last_mut() {
            Some(Block::Run { shows, .. }) => *shows = text.lines().map(str::to_owned).collect(),
            other => panic!("nothing was run that could show this: {other:?}"),
        },
        ["run", word] => {
            let status = word.strip_prefix("fails=").and_then(|status| status.parse().ok());
            let status = status.unwrap_or_else(|| panic!("what does `{word}` mean?"));
            blocks.push(Block::Run { script: text, status, until: false, shows: Vec::new() });
        }
        [word] if word.starts_with("file=") => {
            blocks.push(Block::File { path: word["file=".len()..].to_owned(), text });
        }
        _ => panic!("what does `{marks}` mean?"),
    }
}

/// The first line that is not shown, if there is one.
pub(crate) fn missing<'a>(shows: &'a [String], output: &str) -> Option<&'a str> {
    let mut lines = output.lines();
    let wanted = shows.iter().map(|line| line.trim()).filter(|line| !line.is_empty());
    wanted.into_iter().find(|wanted| !lines.any(|line| fits(wanted, line.trim())))
}

/// Whether a line is as told, where `…` stands for anything.
fn fits(wanted: &str, line: &str) -> bool {
    let mut parts = wanted.split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    rest.is_empty() || last.is_some_and(|last| rest.ends_with(last) || last.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_blocks_are_steps_and_others_are_not() {
        let guide = "# G\n```sh\nread me\n```\n```toml file=a/b.toml\nx = 1\n```\n```sh run\nls\ncd a\n```\n```text shows\na\nb\n```\n\
                     ```sh run fails=3\nexit 3\n```\n```sh background\ndev\n```\n";
        let run = |script: &str, status, shows: &[&str]| Block::Run {
            script: script.into(),
            status,
            until: false,
            shows: shows.iter().map(|line| (*line).to_owned()).collect(),
        };
        let expected = [
            Block::File { path: "a/b.toml".into(), text: "x = 1\n".into() },
            run("ls\ncd a\n", 0, &["a", "b"]),
            run("exit 3\n", 3, &[]),
            Block::Background { script: "dev\n".into() },
        ];
        assert_eq!(blocks(guide), expected);
    }

    #[test]
    fn what_is_shown_is_compared_loosely() {
        let output = "starting\njob 42 SUCCEEDED in 7 ms\nbye\n";
        let missing = |lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            missing(&lines, output).map(str::to_owned)
        };
        assert_eq!(missing(&["starting", "job … SUCCEEDED …", "bye"]), None);
        assert_eq!(missing(&["…SUCCEEDED in 7 ms"]), None);
        assert_eq!(missing(&["job … FAILED …"]).as_deref(), Some("job … FAILED …"));
        assert_eq!(missing(&["bye", "starting"]).as_deref(), Some("starting"));
        assert_eq!(missing(&["job 42"]).as_deref(), Some("job 42"));
    }
}
