//! `ctl explain`: the page of an error code. Needs no stack.

use busbar_protocol::codes::Code;
use clap::Args;
use serde::Serialize;

use crate::failure::Failure;
use crate::render::{Output, table};

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The code, for example `unknown_topic`. Without one, all are listed.
    code: Option<String>,
}

#[derive(Serialize)]
struct Page {
    code: &'static str,
    http_status: u16,
    page: &'static str,
}

pub(crate) fn run(args: &ExplainArgs, output: &Output) -> Result<(), Failure> {
    let Some(text) = &args.code else {
        let pages: Vec<Page> = Code::ALL.iter().copied().map(page).collect();
        return output.show(&pages, || {
            table(&["CODE", "HTTP"], pages.iter().map(|page| vec![page.code.to_owned(), page.http_status.to_string()]))
        });
    };
    let code = Code::parse(text).ok_or_else(|| Failure::Failed(unknown(text)))?;
    output.show(&page(code), || code.page().to_owned())
}

const fn page(code: Code) -> Page {
    Page { code: code.as_str(), http_status: code.http_status(), page: code.page() }
}

fn unknown(text: &str) -> String {
    let near: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).filter(|code| shares_a_word(code, text)).collect();
    let told = if near.is_empty() { "`ctl explain` lists all".to_owned() } else { format!("did you mean {}?", near.join(", ")) };
    format!("there is no code {text:?}: {told}")
}

fn shares_a_word(code: &str, text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word.len() > 2 && code.split('_').any(|part| part == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_is_not_known_names_its_neighbours() {
        assert!(unknown("topic-unknown").contains("unknown_topic"));
        assert!(unknown("xyz").contains("`ctl explain` lists all"));
    }
}
