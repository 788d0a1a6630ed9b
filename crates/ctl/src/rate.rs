//! Rates as people write and read them: `10/s`, `100/m`, `10/s:50`.

use busbar_api::Rate;

/// A rate, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    None,
    At(Rate),
}

/// Reads `10/s`, `100/m`, `10/s:50` or `none`.
pub(crate) fn parse(text: &str) -> Result<Bound, String> {
    if text == "none" {
        return Ok(Bound::None);
    }
    let refuse = || "a rate such as 10/s, 100/m, 1000/h or 10/s:50 is wanted, or none".to_owned();
    let (rate, burst) = text.split_once(':').map_or((text, None), |(rate, burst)| (rate, Some(burst)));
    let (count, unit) = rate.split_once('/').ok_or_else(refuse)?;
    let per_ms = match unit {
        "s" => None,
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => return Err(refuse()),
    };
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number > 0).ok_or_else(refuse);
    Ok(Bound::At(Rate { count: number(count)?, per_ms, burst: burst.map(number).transpose()? }))
}

/// The rate after a change that may name none.
pub(crate) fn changed(change: Option<Bound>, before: Option<Rate>) -> Option<Rate> {
    match change {
        None => before,
        Some(Bound::None) => None,
        Some(Bound::At(rate)) => Some(rate),
    }
}

/// Tells a rate as it is read.
pub(crate) fn words(rate: &Rate) -> String {
    let unit = match rate.per_ms {
        None | Some(1000) => "s".to_owned(),
        Some(60_000) => "m".to_owned(),
        Some(3_600_000) => "h".to_owned(),
        Some(86_400_000) => "d".to_owned(),
        Some(ms) => format!("{ms}ms"),
    };
    let burst = rate.burst.map(|burst| format!(":{burst}")).unwrap_or_default();
    format!("{}/{unit}{burst}", rate.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_back() {
        for text in ["10/s", "100/m", "1/h:5", "7/d"] {
            let Ok(Bound::At(rate)) = parse(text) else { panic!("{text}") };
            assert_eq!(words(&rate), text);
        }
        assert_eq!(parse("none"), Ok(Bound::None));
        for bad in ["", "10", "0/s", "10/w", "x/s", "10/s:0", "10/s:"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_change_names_a_rate_or_none_or_nothing() {
        let rate = |count| Rate { count, per_ms: None, burst: None };
        assert_eq!(changed(None, Some(rate(1))), Some(rate(1)));
        assert_eq!(changed(Some(Bound::None), Some(rate(1))), None);
        assert_eq!(changed(Some(Bound::At(rate(2))), Some(rate(1))), Some(rate(2)));
    }
}
