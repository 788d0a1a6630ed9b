//! Expressions and templates: what they give, what is refused, and that no text brings them down.

use busbar_rules::expr::{ExprErrorKind, Expression, Scope, Template, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

fn scope() -> Scope {
    let input = json!({
        "n": 3, "name": "a\"b", "list": [1, 2, 3, 4, 5], "deep": {"x": null, "f": 1.5}, "big": 18446744073709551615_u64
    });
    let steps = json!({"map": {"state": "succeeded", "output": [{"k": 1}, {"k": 2}]}});
    Scope::new()
        .with("input", Value::from_json(&input))
        .with("steps", Value::from_json(&steps))
        .with("item", Value::from_json(&json!({"id": 7})))
        .with("index", Value::from_json(&json!(4)))
}

fn value(text: &str) -> Json {
    let expression = Expression::compile(text).unwrap_or_else(|error| panic!("{error}"));
    expression.evaluate(&scope()).unwrap_or_else(|error| panic!("{error}")).to_json()
}

fn rendered(template: &Json) -> Json {
    Template::compile(template).expect("compiles").render(&scope()).expect("renders").to_json()
}

fn refused(text: &str) -> (ExprErrorKind, String) {
    let error = match Expression::compile(text) {
        Ok(expression) => expression.evaluate(&scope()).expect_err(text),
        Err(error) => error,
    };
    (error.kind, error.detail)
}

#[test]
fn what_expressions_give() {
    let cases = [
        ("input.n + 1", json!(4)),
        ("input.n > 2 && !(input.n > 5) ? 'yes' : 'no'", json!("yes")),
        ("size(input.list)", json!(5)),
        ("input.list.map(x, x * 2)", json!([2, 4, 6, 8, 10])),
        ("input.list.filter(x, x % 2 == 1)", json!([1, 3, 5])),
        ("input.list.exists(x, x == 4)", json!(true)),
        ("steps.map.output[1].k", json!(2)),
        ("steps['map'].output.map(o, o.k)", json!([1, 2])),
        ("has(input.nothing)", json!(false)),
        ("input.deep.x == null", json!(true)),
        ("input.big", json!(18446744073709551615_u64)),
        ("input.name.contains('\"')", json!(true)),
        ("{'a': [1, {'b': input.n}]}", json!({"a": [1, {"b": 3}]})),
        ("string(input.n) + '/' + string(index)", json!("3/4")),
        ("chunks(input.list, 2)", json!([[1, 2], [3, 4], [5]])),
        ("groupsByBytes(['aaaa', 'bbbb', 'cccccccccc', 'd'], 16)", json!([[0, 1], [2], [3]])),
        ("flatten([[1], [], [2, [3]]])", json!([1, 2, [3]])),
        ("zip([1, 2], ['a', ['b']])", json!([[1, "a"], [2, ["b"]]])),
        ("merge([{'a': 1, 'b': 2}, {}, {'b': [3]}])", json!({"a": 1, "b": [3]})),
        ("sum(steps.map.output.map(o, o.k)) + sum([])", json!(3)),
        ("sum([1, 0.5])", json!(1.5)),
        ("max([1, 3, 2]) - min(4, 2, 3)", json!(1)),
        ("range(2, 5)", json!([2, 3, 4])),
        ("range(5, 2)", json!([])),
        ("json(input.deep)", json!(r#"{"f":1.5,"x":null}"#)),
        ("'abc'.matches('^a.c$')", json!(true)),
    ];
    for (text, wanted) in cases {
        assert_eq!(value(text), wanted, "{text}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    use ExprErrorKind::{Evaluate, Syntax, TooLarge, UnknownName};
    let cases = [
        ("input.", Syntax, ""),
        ("(1", Syntax, ""),
        ("env.PATH", UnknownName, "there is no `env`"),
        ("now()", UnknownName, "no function `now`"),
        ("input.missing", Evaluate, "missing"),
        ("ctx.run_id", UnknownName, "no `ctx` here"),
        ("1 / 0", Evaluate, ""),
        ("input.n + 'a'", Evaluate, ""),
        ("range(0, 20000)", Evaluate, "10000"),
        ("chunks(input.list, 0)", Evaluate, "chunks"),
        ("flatten([1])", Evaluate, "flatten"),
        ("merge([{}, 1])", Evaluate, "merge"),
        ("zip([1], [])", Evaluate, "one list has 1 entries, the other one 0"),
        ("sum(['a'])", Evaluate, "sum"),
        ("sum([9223372036854775807, 1])", Evaluate, "sum"),
        ("range(0, 10000).map(a, range(0, 10000).map(b, a + b))", TooLarge, "steps"),
        ("[1].map(a, [1].map(b, [1].map(c, c)))", TooLarge, "2 deep"),
    ];
    for (text, kind, told) in cases {
        let (found, detail) = refused(text);
        assert!(found == kind && detail.contains(told), "{text}: {found:?} {detail}");
    }
    assert_eq!(refused(&"1+".repeat(3000)).0, TooLarge);
}

#[test]
fn deep_texts_are_refused_and_not_fallen_into() {
    for text in ["(", "[", "{1:", "-", "!", "a.", "f("] {
        assert!(Expression::compile(&text.repeat(4096 / text.len())).is_err(), "{text}");
    }
    assert!(Expression::compile(&format!("{}1{}", "(".repeat(2000), ")".repeat(2000))).is_err());
    assert!(Expression::compile(&format!("{}1{}", "[".repeat(2000), "]".repeat(2000))).is_err());
    // Quotes that are not what they seem.
    assert!(Expression::compile(&format!(r#"r"\" + {}1{}"#, "(".repeat(1500), ")".repeat(1500))).is_err());
    // Closing brackets in quotes hide nothing, since nothing is below zero.
    assert!(Expression::compile(&format!("'{}' + {}1{}", ")".repeat(100), "(".repeat(100), ")".repeat(100))).is_err());
    let hidden = "(')' == ".repeat(80) + "'a'" + &")".repeat(80);
    assert!(Expression::compile(&hidden).is_err());
    // As deep as the bounds permit.
    for text in [
        vec!["1"; 257].join("+"),
        format!("{}true", "!".repeat(256)),
        format!("{}1", "- ".repeat(255)),
        format!("input{}", ".a".repeat(256)),
        format!("{}1", "true ? 1 : ".repeat(128)),
        format!("{}1{}", "(".repeat(48), ")".repeat(48)),
        format!("{}1{}", "[".repeat(48), "]".repeat(48)),
        "(')' == ".repeat(48) + "'a'" + &")".repeat(48),
        "[']' == ".repeat(48) + "'a'" + &"]".repeat(48),
    ] {
        let _ = Expression::compile(&text).map(|expression| expression.evaluate(&scope()));
    }
}

#[test]
fn references_name_the_steps() {
    let expression = Expression::compile("steps.a.output + steps['b'].output.map(steps2, steps2.x)").expect("compiles");
    let found = expression.references();
    assert_eq!(found.steps.iter().collect::<Vec<_>>(), ["a", "b"]);
    assert!(!found.all_steps && found.names.len() == 1);
    assert!(Expression::compile("steps").expect("compiles").references().all_steps);
    assert!(Expression::compile("steps[input.n]").expect("compiles").references().all_steps);
}

#[test]
fn templates_keep_types_and_write_texts() {
    let cases = [
        (json!("${input.list}"), json!([1, 2, 3, 4, 5])),
        (json!("n=${input.n}, x=${input.deep.x}, d=${input.deep}"), json!("n=3, x=, d={\"f\":1.5,\"x\":null}")),
        (json!({"a": ["${item.id}", 1, null, true], "b": "plain"}), json!({"a": [7, 1, null, true], "b": "plain"})),
        (json!("cost: $${input.n} and $5"), json!("cost: ${input.n} and $5")),
        (json!(r#"${ {"a}": 1}["a}"] }"#), json!(1)),
        (json!("${'}' + \"}\"}"), json!("}}")),
    ];
    for (template, wanted) in cases {
        assert_eq!(rendered(&template), wanted);
    }
}

#[test]
fn a_broken_template_names_its_place() {
    let place = |template: &Json| Template::compile(template).expect_err("broken").place;
    assert_eq!(place(&json!({"a": [1, {"b/c": "${"}]})), "/a/1/b~1c");
    assert_eq!(place(&json!({"a": "${nothing.x}"})), "/a");
    let late = Template::compile(&json!({"a": ["${input.missing}"]})).expect("compiles");
    assert_eq!(late.render(&scope()).expect_err("no such member").place, "/a/0");
}

#[test]
fn large_values_are_refused_before_they_are_made() {
    let text = "x".repeat(600_000);
    let scope = Scope::new().with("input", Value::text(&text));
    let error = |text: &str| Expression::compile(text).expect("compiles").evaluate(&scope).expect_err("too large").kind;
    assert_eq!(error("input + input"), ExprErrorKind::TooLarge);
    assert_eq!(error("range(0, 10000).map(i, input)"), ExprErrorKind::TooLarge);
    let many: Vec<Json> = (0..8_000).map(|n| json!({"id": n, "name": "some name"})).collect();
    let scope = Scope::new().with("input", Value::from_json(&json!(many)));
    let ids = Expression::compile("input.filter(x, x.id % 2 == 0).map(x, x.id)").expect("compiles").evaluate(&scope);
    assert_eq!(ids.expect("cheap enough").list_len(), Some(4_000));

    // Picking some of many large values costs those that are picked.
    let counts: Vec<Json> = (0..100).map(|n| (0..1000).map(|w| (format!("word{w}"), json!(n))).collect()).collect();
    let scope = Scope::new().with("input", Value::from_json(&json!(counts))).with("item", Value::from_json(&json!([3, 4, 5])));
    let picked = Expression::compile("item.map(i, input[i])").expect("compiles").evaluate(&scope);
    assert_eq!(picked.expect("cheap enough").list_len(), Some(3));
}

const WORDS: &[&str] = &[
    "input",
    ".",
    "n",
    "list",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "map",
    "filter",
    "x",
    ",",
    "+",
    "-",
    "*",
    "/",
    "%",
    "==",
    "<",
    "&&",
    "||",
    "!",
    "?",
    ":",
    "1",
    "'a'",
    "size",
    "steps",
    "output",
    "has",
    "in",
    "null",
    "true",
    "${",
    "json",
    "range",
    "9223372036854775807",
    "1e308",
];

proptest! {
    #[test]
    fn no_text_brings_it_down(text in "\\PC{0,200}") {
        if let Ok(expression) = Expression::compile(&text) {
            let _ = expression.evaluate(&scope());
        }
        if let Ok(template) = Template::compile(&json!(text)) {
            let _ = template.render(&scope());
        }
    }

    #[test]
    fn nor_does_one_of_its_own_words(words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..40)) {
        let text = words.join("");
        if let Ok(expression) = Expression::compile(&text) {
            let _ = expression.evaluate(&scope());
        }
        if let Ok(template) = Template::compile(&json!(format!("${{{text}}}"))) {
            let _ = template.render(&scope());
        }
    }

    #[test]
    fn json_comes_back_as_it_was(number in any::<i64>(), text in "\\PC{0,20}", flag in any::<bool>()) {
        let json = json!({"n": number, "t": text, "l": [flag, null, {"x": number}]});
        prop_assert_eq!(Value::from_json(&json).to_json(), json);
    }
}
